"""The operators as torch.ops.bitlab has them: importing this module registers them."""

from bitlab._extension import _torch as _torch
from bitlab._extension import torch

bitlab = torch.ops.bitlab

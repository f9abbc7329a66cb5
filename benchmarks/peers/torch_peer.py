"""LibTorch: float32 and bfloat16 linear layers, float32 convolutions."""

from __future__ import annotations

import torch

from . import Peer


def gemm(tokens, rows, depth, threads, isa):
    torch.set_num_threads(threads)
    w, x = torch.randn(rows, depth), torch.randn(tokens, depth)
    wb, xb = w.bfloat16(), x.bfloat16()
    version = torch.__version__
    with torch.inference_mode():
        return {
            "LibTorch float32": Peer(lambda: torch.nn.functional.linear(x, w), isa, version),
            "LibTorch bfloat16": Peer(lambda: torch.nn.functional.linear(xb, wb), isa, version),
        }


def conv(batch, channels, side, filters, threads, isa):
    torch.set_num_threads(threads)
    layer = torch.nn.Conv2d(channels, filters, 3, padding=1).eval().to(memory_format=torch.channels_last)
    x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)

    def call():
        with torch.inference_mode():
            torch.relu_(layer(x))

    return {"LibTorch float32": Peer(call, isa, torch.__version__, "channels last")}

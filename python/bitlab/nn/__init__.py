"""Ternary layers: torch.nn.Module shells over torch.ops.bitlab. With BitQuantConfig.none() each is its twin in torch.nn."""

from bitlab._extension import torch
from bitlab.nn.attention import BitMultiheadAttention as BitMultiheadAttention
from bitlab.nn.attention import KvState as KvState
from bitlab.nn.conv import BitConv1d as BitConv1d
from bitlab.nn.conv import BitConv2d as BitConv2d
from bitlab.nn.conv import BitConv3d as BitConv3d
from bitlab.nn.conv import BitConvTranspose1d as BitConvTranspose1d
from bitlab.nn.conv import BitConvTranspose2d as BitConvTranspose2d
from bitlab.nn.conv import BitConvTranspose3d as BitConvTranspose3d
from bitlab.nn.embedding import BitEmbedding as BitEmbedding
from bitlab.nn.embedding import BitEmbeddingBag as BitEmbeddingBag
from bitlab.nn.feed_forward import BitFeedForward as BitFeedForward
from bitlab.nn.layer import TernaryLayer as TernaryLayer
from bitlab.nn.layer import set_blend as set_blend
from bitlab.nn.linear import BitLinear as BitLinear
from bitlab.nn.norm import BitBatchNorm1d as BitBatchNorm1d
from bitlab.nn.norm import BitBatchNorm2d as BitBatchNorm2d
from bitlab.nn.norm import BitBatchNorm3d as BitBatchNorm3d
from bitlab.nn.norm import BitGroupNorm as BitGroupNorm
from bitlab.nn.norm import BitLayerNorm as BitLayerNorm
from bitlab.nn.norm import BitRMSNorm as BitRMSNorm
from bitlab.nn.norm import make_norm as make_norm
from bitlab.nn.recurrent import BitGRU as BitGRU
from bitlab.nn.recurrent import BitLSTM as BitLSTM
from bitlab.nn.transformer import BitTransformerBlock as BitTransformerBlock

# What conversion replaces, and by what: those very classes.
LAYERS: dict[type[torch.nn.Module], type[TernaryLayer]] = {
    torch.nn.Linear: BitLinear,
    torch.nn.Conv1d: BitConv1d,
    torch.nn.Conv2d: BitConv2d,
    torch.nn.Conv3d: BitConv3d,
    torch.nn.ConvTranspose1d: BitConvTranspose1d,
    torch.nn.ConvTranspose2d: BitConvTranspose2d,
    torch.nn.ConvTranspose3d: BitConvTranspose3d,
    torch.nn.Embedding: BitEmbedding,
    torch.nn.EmbeddingBag: BitEmbeddingBag,
    torch.nn.LSTM: BitLSTM,
    torch.nn.GRU: BitGRU,
}

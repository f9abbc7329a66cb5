"""Networks at their real size, as torchvision, timm, transformers and diffusers build them, with random weights: each a title and a function that makes
the network and one sample: a tensor, or several by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from census_models import import_torchvision  # noqa: E402

Make = Callable[[], tuple[nn.Module, Any]]

PICTURE = torch.linspace(-2, 2, 3 * 224 * 224).reshape(1, 3, 224, 224).sin()
TOKENS = torch.arange(128).reshape(1, 128) * 7 % 30000


def torchvision(name: str) -> Make:
    def make() -> tuple[nn.Module, torch.Tensor]:
        import_torchvision()
        import torchvision.models

        return getattr(torchvision.models, name)(weights=None), PICTURE

    return make


def timm(name: str) -> Make:
    def make() -> tuple[nn.Module, torch.Tensor]:
        import_torchvision()
        import timm

        return timm.create_model(name, pretrained=False), PICTURE

    return make


class Output(nn.Module):
    """A network of transformers or diffusers with one tensor in and one out."""

    def __init__(self, network: nn.Module, name: str, **others: Any) -> None:
        super().__init__()
        self.network, self.name, self.others = network, name, others

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self.network(x, **self.others), self.name)


def transformers(config: str, model: str, output: str, x: torch.Tensor, **settings: Any) -> Make:
    def make() -> tuple[nn.Module, torch.Tensor]:
        import_torchvision()
        import transformers

        built = getattr(transformers, config)(attn_implementation="eager", **settings)
        built.use_cache = False
        return Output(getattr(transformers, model)(built), output), x

    return make


def bert_base() -> tuple[nn.Module, torch.Tensor]:
    import_torchvision()
    from transformers import BertConfig, BertModel

    return Output(BertModel(BertConfig(attn_implementation="eager"), add_pooling_layer=False), "last_hidden_state"), TOKENS


def diffusion_unet() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    import_torchvision()
    from diffusers import UNet2DModel

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = UNet2DModel(sample_size=64, block_out_channels=(128, 256, 256, 512))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.unet(x, t).sample

    return Denoiser(), {"x": PICTURE[:, :, :64, :64].contiguous(), "t": torch.tensor([17])}


NETWORKS: dict[str, tuple[str, Make]] = {
    "resnet18": ("ResNet-18, 224 × 224", torchvision("resnet18")),
    "resnet50": ("ResNet-50, 224 × 224", torchvision("resnet50")),
    "mobilenet_v2": ("MobileNetV2, 224 × 224", torchvision("mobilenet_v2")),
    "mobilenet_v3": ("MobileNetV3-Large, 224 × 224", torchvision("mobilenet_v3_large")),
    "efficientnet_b0": ("EfficientNet-B0, 224 × 224", torchvision("efficientnet_b0")),
    "vit_small": ("ViT-S/16, 224 × 224", timm("vit_small_patch16_224")),
    "swin_t": ("Swin-T, 224 × 224", torchvision("swin_t")),
    "unet": ("diffusion U-Net (diffusers' UNet2DModel), 64 × 64", diffusion_unet),
    "yolos_tiny": (
        "YOLOS-Ti detector, 224 × 224",
        transformers(
            "YolosConfig", "YolosForObjectDetection", "logits", PICTURE, hidden_size=192, num_attention_heads=3, intermediate_size=768,
            image_size=[224, 224],
        ),
    ),
    "bert_base": ("BERT-base, 128 tokens", bert_base),
    "gpt2": ("GPT-2, 128 tokens", transformers("GPT2Config", "GPT2LMHeadModel", "logits", TOKENS)),
    "llama": (
        "LLaMA of 12 layers, 128 tokens",
        transformers(
            "LlamaConfig", "LlamaForCausalLM", "logits", TOKENS, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
            num_attention_heads=12, num_key_value_heads=4,
        ),
    ),
    "wav2vec2": (
        "Wav2Vec2-base keyword spotting, 1 s of sound",
        transformers(
            "Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", "logits", torch.linspace(0, 900, 16000).sin().reshape(1, -1), num_labels=12
        ),
    ),
}


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """For argparse: some of the known names, with commas between."""

    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"networks expected: {', '.join(known)}; got {', '.join(unknown)}")
        return text.split(",")

    return parse

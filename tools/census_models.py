"""Networks that nobody here wrote, as tiny random instances: from transformers, timm, and torchvision where that is installed.

An entry makes a model, an example (a tensor, or keyword arguments), and says which sizes differ from run to run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Entry:
    name: str
    make: Callable[[], tuple[torch.nn.Module, Any]]


def _define_torchvision_ops() -> None:
    """torchvision's wheel beside a PyTorch of another build lacks its compiled operators, of which no network here has one; its import asks for two."""
    library = torch.library.Library("torchvision", "DEF")  # noqa: TOR901
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _define_torchvision_ops.library = library  # type: ignore[attr-defined]


def import_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        import sys

        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        _define_torchvision_ops()
        import torchvision  # noqa: F401


# --- transformers

_TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_PICTURE = {"image_size": 32, "num_labels": 5}


def _hf(config: str, model: str, inputs: str, **sizes: Any) -> Callable[[], tuple[torch.nn.Module, Any]]:
    def make(masked: bool = False) -> tuple[torch.nn.Module, Any]:
        import_torchvision()  # which transformers asks for its version
        import transformers

        made = getattr(transformers, model)(getattr(transformers, config)(**sizes))
        if hasattr(made.config, "use_cache"):
            made.config.use_cache = False
        if masked:
            return made, {"input_ids": torch.randint(3, 90, (2, 12)), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
        if inputs in ("text", "tokens"):
            return made, {"input_ids": torch.randint(3, 90, (2, 12))}
        return made, {"pixel_values": torch.randn(2, 3, sizes.get("image_size", 32), sizes.get("image_size", 32))}

    return make


def _masked(models: dict[str, Any]) -> dict[str, Any]:
    """Those of text once more, with a mask of padding, as tokenizers give it."""
    images = ("vit", "deit", "beit", "dinov2", "swin", "convnext", "convnextv2", "resnet", "mobilenet_v2", "regnet", "poolformer", "segformer")
    return {f"{name}+mask": functools.partial(make, masked=True) for name, make in models.items() if name not in images}


_TRANSFORMERS = {
    "bert": _hf("BertConfig", "BertForSequenceClassification", "text", **_TEXT),
    "distilbert": _hf("DistilBertConfig", "DistilBertForSequenceClassification", "text", vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "roberta": _hf("RobertaConfig", "RobertaForSequenceClassification", "text", **_TEXT),
    "albert": _hf("AlbertConfig", "AlbertForSequenceClassification", "text", embedding_size=16, **_TEXT),
    "electra": _hf("ElectraConfig", "ElectraForSequenceClassification", "text", embedding_size=16, **_TEXT),
    "deberta_v2": _hf("DebertaV2Config", "DebertaV2ForSequenceClassification", "text", **_TEXT),
    "mpnet": _hf("MPNetConfig", "MPNetForSequenceClassification", "text", **_TEXT),
    "modernbert": _hf("ModernBertConfig", "ModernBertForSequenceClassification", "text", pad_token_id=0, **_TEXT),
    "gpt2": _hf("GPT2Config", "GPT2LMHeadModel", "tokens", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": _hf("GPTNeoXConfig", "GPTNeoXForCausalLM", "tokens", **_TEXT),
    "opt": _hf("OPTConfig", "OPTForCausalLM", "tokens", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32),
    "llama": _hf("LlamaConfig", "LlamaForCausalLM", "tokens", num_key_value_heads=2, **_TEXT),
    "mistral": _hf("MistralConfig", "MistralForCausalLM", "tokens", num_key_value_heads=2, **_TEXT),
    "qwen2": _hf("Qwen2Config", "Qwen2ForCausalLM", "tokens", num_key_value_heads=2, **_TEXT),
    "qwen3": _hf("Qwen3Config", "Qwen3ForCausalLM", "tokens", num_key_value_heads=2, head_dim=8, **_TEXT),
    "gemma": _hf("GemmaConfig", "GemmaForCausalLM", "tokens", num_key_value_heads=2, head_dim=8, **_TEXT),
    "phi": _hf("PhiConfig", "PhiForCausalLM", "tokens", **_TEXT),
    "bloom": _hf("BloomConfig", "BloomForCausalLM", "tokens", vocab_size=99, hidden_size=32, n_layer=2, n_head=4),
    "t5_encoder": _hf("T5Config", "T5EncoderModel", "text", vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
    "vit": _hf("ViTConfig", "ViTForImageClassification", "image", patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **_PICTURE),
    "deit": _hf("DeiTConfig", "DeiTForImageClassification", "image", patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **_PICTURE),
    "beit": _hf("BeitConfig", "BeitForImageClassification", "image", patch_size=8, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, out_indices=[0, 1, 2, 3], **_PICTURE),
    "dinov2": _hf("Dinov2Config", "Dinov2ForImageClassification", "image", patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, **_PICTURE),
    "swin": _hf("SwinConfig", "SwinForImageClassification", "image", patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, **_PICTURE),
    "convnext": _hf("ConvNextConfig", "ConvNextForImageClassification", "image", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], **_PICTURE),
    "convnextv2": _hf("ConvNextV2Config", "ConvNextV2ForImageClassification", "image", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], **_PICTURE),
    "resnet": _hf("ResNetConfig", "ResNetForImageClassification", "image", embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_labels=5),
    "mobilenet_v2": _hf("MobileNetV2Config", "MobileNetV2ForImageClassification", "image", depth_multiplier=0.35, **_PICTURE),
    "codegen": _hf("CodeGenConfig", "CodeGenForCausalLM", "tokens", vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
    "starcoder2": _hf("Starcoder2Config", "Starcoder2ForCausalLM", "tokens", num_key_value_heads=2, **_TEXT),
    "olmo": _hf("OlmoConfig", "OlmoForCausalLM", "tokens", **_TEXT),
    "olmo2": _hf("Olmo2Config", "Olmo2ForCausalLM", "tokens", **_TEXT),
    "regnet": _hf("RegNetConfig", "RegNetForImageClassification", "image", embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], groups_width=8, num_labels=5),
    "poolformer": _hf("PoolFormerConfig", "PoolFormerForImageClassification", "image", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_labels=5),
    "segformer": _hf("SegformerConfig", "SegformerForImageClassification", "image", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], num_labels=5),
}  # fmt: skip

# --- timm: one small member of each big family, at the smallest size of pictures that it takes

_TIMM = {
    "resnet18": 64, "resnext26ts": 64, "res2net50_26w_4s": 64, "wide_resnet50_2": 64, "regnetx_002": 64, "regnety_002": 64, "densenet121": 64,
    "vgg11_bn": 32, "dla34": 64, "hrnet_w18_small": 64, "cspresnet50": 64, "darknet53": 64, "repvgg_a0": 64, "ese_vovnet19b_dw": 64, "hgnet_tiny": 64,
    "xception41": 64, "inception_v3": 96, "nf_resnet50": 64, "efficientnet_b0": 64, "tf_efficientnetv2_b0": 64, "mobilenetv2_050": 64,
    "mobilenetv3_small_050": 64, "mnasnet_small": 64, "fbnetc_100": 64, "ghostnet_050": 64, "lcnet_035": 64, "tinynet_e": 64, "mixnet_s": 64,
    "rexnet_100": 64, "hardcorenas_a": 64, "semnasnet_075": 64, "spnasnet_100": 64, "convnext_atto": 64, "convnextv2_atto": 64, "edgenext_xx_small": 64,
    "vit_tiny_patch16_224": 32, "deit_tiny_patch16_224": 32, "beit_base_patch16_224": 32, "cait_xxs24_224": 32, "xcit_nano_12_p16_224": 32,
    "eva02_tiny_patch14_224": 28, "swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256, "mixer_s32_224": 224, "resmlp_12_224": 224,
    "gmlp_ti16_224": 224, "poolformer_s12": 64, "pvt_v2_b0": 64, "levit_128s": 224, "coat_lite_tiny": 224, "convit_tiny": 224, "visformer_tiny": 224,
    "mobilevit_xxs": 64, "mobilevitv2_050": 64, "maxvit_nano_rw_256": 256, "coatnet_nano_rw_224": 224, "davit_tiny": 224, "focalnet_tiny_srf": 64,
    "efficientformer_l1": 224, "efficientformerv2_s0": 224, "fastvit_t8": 64, "repvit_m0_9": 64, "tiny_vit_5m_224": 224, "inception_next_atto": 64,
    "convmixer_768_32": 64, "nest_tiny": 224, "twins_svt_small": 64, "volo_d1_224": 224, "crossvit_tiny_240": 240, "pit_ti_224": 224,
    "hiera_tiny_224": 224, "mambaout_femto": 64, "starnet_s1": 64, "shvit_s1": 64, "seresnext26d_32x4d": 64, "ecaresnet26t": 64, "gcresnext26ts": 64,
    "resnest14d": 64, "skresnet18": 64, "selecsls42b": 64, "cs3darknet_s": 64, "mobilenetv4_conv_small": 64, "efficientvit_b0": 64, "hgnetv2_b0": 64,
}  # fmt: skip


def _timm(name: str, size: int) -> Callable[[], tuple[torch.nn.Module, Any]]:
    def make() -> tuple[torch.nn.Module, Any]:
        import_torchvision()
        import timm

        sizes = {"img_size": size} if size < 224 and name.startswith(("vit_", "deit_", "beit_", "cait_", "xcit_", "eva02_")) else {}
        return timm.create_model(name, pretrained=False, num_classes=5, **sizes), torch.randn(2, 3, size, size)

    return make


# --- torchvision

_TORCHVISION = {
    "resnet18": 64, "resnext50_32x4d": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "efficientnet_b0": 64, "squeezenet1_1": 64,
    "shufflenet_v2_x0_5": 64, "googlenet": 64, "alexnet": 64, "mnasnet0_5": 64, "vit_b_32": 224, "swin_t": 64, "convnext_tiny": 64,
}  # fmt: skip


def _torchvision(name: str, size: int) -> Callable[[], tuple[torch.nn.Module, Any]]:
    def make() -> tuple[torch.nn.Module, Any]:
        import_torchvision()
        import torchvision

        own = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
        return getattr(torchvision.models, name)(num_classes=5, **own), torch.randn(2, 3, size, size)

    return make


MODELS = {
    **{f"transformers/{name}": Entry(f"transformers/{name}", make) for name, make in (_TRANSFORMERS | _masked(_TRANSFORMERS)).items()},
    **{f"timm/{name}": Entry(f"timm/{name}", _timm(name, size)) for name, size in _TIMM.items()},
    **{f"torchvision/{name}": Entry(f"torchvision/{name}", _torchvision(name, size)) for name, size in _TORCHVISION.items()},
}

# A few of different kinds, quick: what the tests take.
QUICK = [
    "transformers/bert", "transformers/distilbert", "transformers/roberta", "transformers/gpt2", "transformers/llama", "transformers/qwen2",
    "transformers/vit", "transformers/deit", "transformers/convnext", "transformers/resnet", "transformers/t5_encoder", "timm/resnet18",
    "timm/mobilenetv3_small_050", "timm/convnext_atto", "timm/vit_tiny_patch16_224",
]  # fmt: skip

#!/usr/bin/env python3
"""What a training step of a ternary network costs on a CUDA device beside its float twin's, in one interleaved run.

    python3 benchmarks/cuda/training_step.py build/release/lib/libbitlab_ops.so --json result.json

A step is forward, backward and AdamW. Both twins have the same shapes; the ternary one's linear layers and convolutions are bit_linear and bit_conv
with absmean weights and int8 activations, but for the first and the last layer.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

SPEC = "absmean/tensor"


class BitLinear(nn.Linear):
    def forward(self, x):
        return torch.ops.bitlab.bit_linear(x, self.weight, self.bias, SPEC, "int8", [])


class BitConv2d(nn.Conv2d):
    def forward(self, x):
        return torch.ops.bitlab.bit_conv(x, self.weight, self.bias, list(self.stride), list(self.padding), list(self.dilation), False,
                                         [0, 0], self.groups, SPEC, "int8", [])  # fmt: skip


class Block(nn.Module):
    def __init__(self, linear, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = linear(dim, 3 * dim), linear(dim, dim)
        self.up, self.down = linear(dim, 4 * dim), linear(4 * dim, dim)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """GPT-2's smallest: 12 blocks of 768, 124 million parameters."""

    def __init__(self, linear, vocabulary=50304, dim=768, depth=12, heads=12, context=1024):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*[Block(linear, dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


class Residual(nn.Module):
    def __init__(self, conv, inputs, outputs, stride):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = conv(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def resnet18(conv):
    blocks = []
    for i, (inputs, outputs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
        blocks += [Residual(conv, inputs, outputs, 1 if i == 0 else 2), Residual(conv, outputs, outputs, 1)]
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))  # fmt: skip


def stepper(model, batch, target, dtype):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == "bf16"):
            logits = model(batch)
            loss = F.cross_entropy(logits.flatten(0, -2).float(), target.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def milliseconds(steps, rounds=7, repeats=3):
    times = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(3):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(repeats):
                step()
            torch.cuda.synchronize()
            times[name].append((time.perf_counter() - begin) / repeats * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--json")
    parser.add_argument("--profile", action="store_true", help="print where the time of the ternary steps goes")
    options = parser.parse_args()
    torch.ops.load_library(options.library)
    torch.manual_seed(0)
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cases": []}
    for name in ("GPT 124M, 8 x 1024 tokens", "ResNet-18, 64 pictures of 224 x 224"):
        for dtype in ("bf16", "float32"):
            steps = {}
            for kind in ("float", "ternary"):
                if name.startswith("GPT"):
                    model = Gpt(BitLinear if kind == "ternary" else nn.Linear).cuda()
                    ids = torch.randint(0, 50304, (8, 1025), device="cuda")
                    batch, target = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
                else:
                    model = resnet18(BitConv2d if kind == "ternary" else nn.Conv2d).cuda().to(memory_format=torch.channels_last)
                    batch = torch.randn(64, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
                    target = torch.randint(0, 1000, (64,), device="cuda")
                steps[kind] = stepper(model, batch, target, dtype)
            times = milliseconds(steps)
            result["cases"].append({"network": name, "type": dtype, "milliseconds": times})
            print(f"{name}, {dtype}: float {times['float']:.1f} ms, ternary {times['ternary']:.1f} ms, "
                  f"{times['ternary'] / times['float']:.2f} x", flush=True)  # fmt: skip
            if options.profile:
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]) as profile:
                    steps["ternary"]()
                    torch.cuda.synchronize()
                print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=16, max_name_column_width=60))
            del steps
            torch.cuda.empty_cache()
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()

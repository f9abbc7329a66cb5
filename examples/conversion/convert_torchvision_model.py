"""Makes a convolutional network ternary by rules, without a change of its source: a model of torchvision where that is installed, else a ResNet of the
same build, written here.

    python examples/conversion/convert_torchvision_model.py --model resnet18

The first convolution and the classifier stay in 8 bits, as papers on ternary networks do. Without training weights the outputs mean nothing: what is
shown is the conversion, a step of training, the file, and its sizes.
"""

import argparse

import torch
from torch import nn

import bitlab

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="resnet18", help="a function of torchvision.models")
parser.add_argument("--size", type=int, default=64, help="of pictures")
parser.add_argument("--output", default="converted.bit")
arguments = parser.parse_args()


class Block(nn.Module):
    """Two convolutions and a shortcut (arXiv:1512.03385)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1, self.maxpool = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(Block(widths[i], widths[i + 1], 1 if i == 0 else 2), Block(widths[i + 1], widths[i + 1], 1))
                for i in range(4)
            )
        )
        self.fc = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(self.maxpool(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(y.mean((2, 3)))


try:
    import torchvision

    model = getattr(torchvision.models, arguments.model)()
except (ImportError, RuntimeError):
    print("torchvision is not installed for this PyTorch: taking a ResNet-18 of the same build")
    model = ResNet()

rules = bitlab.MixedPrecisionConfig(
    granularity="channel",
    rules=[
        bitlab.QuantRule(position="first", quant=bitlab.QuantRule.in_int8()),
        bitlab.QuantRule(position="last", quant=bitlab.QuantRule.in_int8()),
    ],
)
print(bitlab.BitConverter.convert(model, rules))

x, y = torch.randn(4, 3, arguments.size, arguments.size), torch.randint(0, 1000, (4,))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()

done = bitlab.deploy(model, x[:2], arguments.output)
logits = bitlab.runtime.Session(arguments.output)(x.numpy())
print(f"{logits.shape[0]} x {logits.shape[1]} logits from a file of {done.file_bytes / 1e6:.1f} MB; weights in memory "
      f"{done.float32_weight_bytes / done.weight_bytes:.1f} times smaller than float32")  # fmt: skip

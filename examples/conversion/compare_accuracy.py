"""One network on MNIST four ways: float32, ternary without training, ternary with layers that suffer kept in float, and trained ternary.

    python examples/conversion/compare_accuracy.py --epochs 3
"""

import argparse
import copy

import torch
from torch import nn

import bitlab

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--limit", type=int, default=0, help="use at most so many pictures; 0: all")
arguments = parser.parse_args()

training = bitlab.data.load_dataset("mnist", "train", limit=arguments.limit)
test = bitlab.data.load_dataset("mnist", "test", limit=arguments.limit)
images = torch.stack([torch.from_numpy(test[i][0]) for i in range(len(test))])
labels = torch.tensor([test[i][1] for i in range(len(test))])
config = bitlab.TrainingConfig(epochs=arguments.epochs)
quant = bitlab.BitQuantConfig(granularity="channel")


def accuracy(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


rows = []
full = network()
bitlab.BitTrainer(full, config, training).train()
rows.append(("float32", accuracy(full)))

samples = [images[i : i + 64] for i in range(0, 256, 64)]
fitted, _ = bitlab.quantize_for_deployment(copy.deepcopy(full), samples, quant)
rows.append(("ternary, fitted to 256 pictures", accuracy(fitted)))

found = bitlab.analyze(full, lambda m: 1 - accuracy(m), quant)
rules = bitlab.MixedPrecisionConfig(granularity="channel", rules=found.propose_rules((found.ternary_loss - found.float_loss) / 2))
mixed, _ = bitlab.quantize_for_deployment(copy.deepcopy(full), samples, rules)
kept = [layer.path for layer in mixed.report.layers if layer.action == "kept"]
rows.append((f"the same, with {', '.join(kept) or 'nothing'} in float", accuracy(mixed)))

ternary = network()
bitlab.BitConverter.convert(ternary, quant)
bitlab.BitTrainer(ternary, config, training).train()
rows.append(("ternary, trained", accuracy(ternary)))

for name, value in rows:
    print(f"{100 * value:6.2f} %  {name}")

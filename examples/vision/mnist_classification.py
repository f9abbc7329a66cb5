"""Makes a network of PyTorch ternary, trains it on MNIST, deploys it, and runs the file without PyTorch.

    python examples/vision/mnist_classification.py [pictures]

The file lands in mnist.bit; `bitlab-run run mnist.bit --data mnist` classifies with it, too.
"""

# docs: ten-lines
import sys

import torch
from torch import nn

import bitlab

limit = int(sys.argv[1]) if sys.argv[1:] else 0  # pictures; 0: all
training, test = (bitlab.data.load_dataset("mnist", split, limit=limit) for split in ("train", "test"))
model = nn.Sequential(
    nn.Conv2d(1, 32, 5, stride=2), nn.ReLU(), nn.Conv2d(32, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
)
print(bitlab.BitConverter.convert(model, bitlab.BitQuantConfig(granularity="channel")))  # in place; the weights stay PyTorch's
trainer = bitlab.BitTrainer(model, bitlab.TrainingConfig(epochs=1), train_dataset=training, eval_dataset=test)
print(trainer.train().best)
pictures = torch.stack([torch.from_numpy(test[i][0]) for i in range(100)])
print(bitlab.deploy(model, pictures[:2], "mnist.bit", metadata={"image": test.spec}))
# docs: end

import subprocess  # noqa: E402

# Another process, in which PyTorch cannot be imported, gives the same bits.
PROGRAM = """
import sys
sys.modules["torch"] = None
import bitlab, numpy as np
test = bitlab.data.load_dataset("mnist", "test", limit=100)
logits = bitlab.runtime.Session(sys.argv[1])(np.stack([test[i][0] for i in range(100)]))
sys.stdout.buffer.write(logits.tobytes())
"""
found = subprocess.run([sys.executable, "-c", PROGRAM, "mnist.bit"], check=True, capture_output=True).stdout
with torch.no_grad():
    expected = model.eval()(pictures).numpy().tobytes()
print("logits without PyTorch:", "the same bits" if found == expected else "OTHER BITS")
sys.exit(found != expected)

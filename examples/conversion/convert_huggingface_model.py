"""Makes a model of Hugging Face ternary, trains it a little, deploys it and runs the file.

    python examples/conversion/convert_huggingface_model.py                      # a tiny random BERT
    python examples/conversion/convert_huggingface_model.py --model DIRECTORY    # weights of your own

Needs transformers (pip install 'bitlab[hf]').
"""

import argparse

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import bitlab

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", help="a name or folder for from_pretrained(); without: a tiny random BERT")
parser.add_argument("--output", default="bert.bit")
arguments = parser.parse_args()

torch.manual_seed(0)
if arguments.model:
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model)
else:
    model = BertForSequenceClassification(
        BertConfig(vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    )

# The classifier stays float: it is small, and nothing is gained.
rules = bitlab.MixedPrecisionConfig(rules=[{"path": "classifier", "quant": {"method": "none"}}])
print(bitlab.BitConverter.convert(model, rules))

# Without an attention mask: transformers asks in Python whether a mask is needed, and a recorded forward pass has one answer.
example = {"input_ids": torch.randint(5, 500, (4, 16))}
labels = torch.randint(0, 2, (4,))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(5):
    loss = model(**example, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1}: loss {loss.item():.3f}")

done = bitlab.deploy(model, example, arguments.output)
session = bitlab.runtime.Session(arguments.output)
found = session.run({port.name: example[port.name].numpy() for port in session.model.inputs})["logits"]
with torch.no_grad():
    expected = model.eval()(**example).logits.numpy()
print(f"largest difference of logits {abs(found - expected).max():.2g}; weights in memory "
      f"{done.float32_weight_bytes / done.weight_bytes:.1f} times smaller than float32")  # fmt: skip

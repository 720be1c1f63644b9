"""Splits an encoder into experts and gives it exits: python modular_encoder.py [FOLDER_OR_HUB_ID].

Without an argument the encoder is a tiny BERT with random weights, and texts are rows of ids. Everything is
done in place and undone at the end; the smallest cut goes to cut_encoder/, which transformers load.
"""

import shutil
import sys

import torch
import transformers

import brickyard
from brickyard.modularize import add_exits

torch.manual_seed(0)
if len(sys.argv) > 1:
    model = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
    texts = ["how to open a file", "read all lines of a file", "what is the weather like"]
else:
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    config = transformers.BertConfig(vocab_size=100, initializer_range=0.2, **sizes)
    model, tokenizer = transformers.BertModel(config).eval(), None
    texts = [[7, 8, 9, 10], [7, 8, 11], [40, 41, 42, 43, 44]]


def count(module):
    """Count the parameters in thousands."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e3:.1f} k parameters"


before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
exits = tuple(range(1, model.config.num_hidden_layers + 1))
encoder = add_exits(model, exits=exits, tokenizer=tokenizer, head="none", max_tokens=32)
whole = encoder.encode(texts)
print(f"whole: {count(model)}")
for exit in exits[:-1]:
    likeness = (encoder.encode(texts, exit=exit) * whole).sum(1).mean()
    print(f"exit {exit}: {count(encoder.truncate(exit).module)}, cosine to the whole {likeness:.3f}")

modular = brickyard.modularize(model, experts=8, top_k=2, layers="last-even:2")
for mode in ("dense", "sparse"):
    modular.use(mode)
    likeness = (encoder.encode(texts) * whole).sum(1).mean()
    print(f"2 of 8 experts in {len(modular.experts)} layers, {mode}: cosine to the whole {likeness:.3f}")

modular.revert()
encoder.revert()
assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
print("reverted: every bit is as it was")

cut = add_exits(model, exits=exits[:1], tokenizer=tokenizer, head="none", max_tokens=32).truncate(exits[0])
shutil.rmtree("cut_encoder", ignore_errors=True)
cut.module.backbone.save_pretrained("cut_encoder")
again = transformers.AutoModel.from_pretrained("cut_encoder")
print(f"cut_encoder/ has {again.config.num_hidden_layers} layer")

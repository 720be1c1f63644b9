"""Searches heads, feed-forward width and layers of an encoder: python search_encoder.py [FOLDER_OR_HUB_ID].

Without an argument the encoder is a tiny BERT with random weights. The error here is how far the output is
from that of the whole encoder; measure your task instead. The smallest subnet of the front goes to
small_encoder/.
"""

import shutil
import sys
import time

import torch
import transformers

from brickyard.search import run
from brickyard.search.adapters.hf_encoder import HuggingFaceEncoder, load_encoder

torch.manual_seed(0)
if len(sys.argv) > 1:
    model = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
else:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=100, initializer_range=0.2, **sizes)
    model = transformers.BertModel(config).eval()
ids = torch.randint(5, 90, (4, 16))
with torch.no_grad():
    whole = model(ids)[0]


@torch.no_grad()
def evaluate(subnet):
    """Compare with the whole encoder, time one run, and count."""
    started = time.perf_counter()
    output = subnet(ids)[0]
    return {
        "error": float((output - whole).square().mean()),
        "latency_ms": (time.perf_counter() - started) * 1e3,
        "parameters": sum(p.numel() for p in subnet.parameters()),
    }


network = HuggingFaceEncoder(model, evaluate=evaluate)
result = run(network, objectives=["error", "parameters"], evaluations=20, seed=0)
for point in result.front:
    print(f"error {point.metrics['error']:.4f}, {point.metrics['parameters']:.0f} parameters")
smallest = min(result.front, key=lambda point: point.metrics["parameters"])
shutil.rmtree("small_encoder", ignore_errors=True)
network.extract(smallest.config).save_pretrained("small_encoder")
print(dict(smallest.config))
print(f"small_encoder/ gives {list(load_encoder('small_encoder')(ids)[0].shape)}")

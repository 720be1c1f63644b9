"""Tiny transformers of many kinds with random weights, biases and norms too; and one of plain torch."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 12, "n_layer": 3, "n_head": 3, "n_inner": 16, "n_positions": 32, "vocab_size": 20}
GPT2_IDS = {"bos_token_id": 1, "eos_token_id": 1}
WIDTHS = {name: SIZES[name] for name in list(SIZES)[1:5]}
VIT = {**WIDTHS, "image_size": 8, "patch_size": 4, "num_channels": 1}
T5 = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3, "vocab_size": 20}
KINDS = {
    "bert": ("BertConfig", "BertModel", SIZES),
    "bert-classifier": ("BertConfig", "BertForSequenceClassification", SIZES),
    "bert-eager": ("BertConfig", "BertModel", {**SIZES, "attn_implementation": "eager"}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", SIZES),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {**GPT2, **GPT2_IDS}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**SIZES, "num_key_value_heads": 1}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**SIZES, "num_key_value_heads": 3}),
    "qwen": ("Qwen2Config", "Qwen2ForCausalLM", {**SIZES, "num_key_value_heads": 3}),
    "vit": ("ViTConfig", "ViTForImageClassification", VIT),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"vocab_size": 20, "dim": 12, "n_layers": 3, "n_heads": 3, "hidden_dim": 16},
    ),
    "albert": ("AlbertConfig", "AlbertModel", {**SIZES, "embedding_size": 12}),
    "t5": ("T5Config", "T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", SIZES),
}


def tiny(kind: str, **changes) -> torch.nn.Module:
    """Build a model; every weight is drawn anew, so that no bias is 0 and no norm an identity."""
    config, model, sizes = KINDS[kind]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        made = getattr(transformers, model)(getattr(transformers, config)(**{**sizes, **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.eval()


class Block(nn.Module):
    """A feed-forward network as user code writes it."""

    def __init__(self, between: nn.Module, *, drop: float = 0.0):
        super().__init__()
        self.one, self.two, self.between, self.drop = nn.Linear(6, 8), nn.Linear(8, 6), between, drop

    def forward(self, x):
        return x + self.two(F.dropout(self.between(self.one(x)), self.drop, self.training))


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


X = {"x": torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))}

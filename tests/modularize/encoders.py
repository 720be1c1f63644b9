"""Tiny encoders of texts with random weights, and a tokenizer of letters."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from .transformers_zoo import SIZES, tiny, transformers

WIDE = {**SIZES, "hidden_size": 24}
TOKENS = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 12, "n_layer": 3, "n_head": 3, "n_positions": 32, "vocab_size": 20}
BACKBONES = {
    "roberta": ("RobertaModel", SIZES),
    "mpnet": ("MPNetModel", SIZES),
    "modernbert": ("ModernBertModel", {**WIDE, **TOKENS}),
    "gpt2": ("GPT2Model", {**GPT2, "bos_token_id": 1, "eos_token_id": 1}),
    "qwen": ("Qwen2Model", {**WIDE, "num_key_value_heads": 3}),
}
KINDS = ("bert", "bert-eager", "distilbert", *BACKBONES)
TEXTS = ["a b c d", "e f", "h a g e b"]


def backbone(kind: str = "bert") -> torch.nn.Module:
    if kind not in BACKBONES:
        return tiny(kind)
    name, sizes = BACKBONES[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = getattr(transformers, name.replace("Model", "Config"))(**sizes)
        model = getattr(transformers, name)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
    return model.eval()


def letters() -> "transformers.PreTrainedTokenizerFast":
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(97 + place) for place in range(16))]
    rules = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )

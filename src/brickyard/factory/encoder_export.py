"""Encoders of texts as ONNX for any number of texts and tokens, compared with torch; needs torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from brickyard.core.errors import ExportError
from brickyard.core.files import write_bytes
from brickyard.export.whole import TOLERANCE
from brickyard.factory.text_export import export_module
from brickyard.modularize.text_encoder import TextEncoder

_EXAMPLE = ((5, 6, 7), (8,))  # ids modulo the vocabulary; the file takes any number of texts and tokens
OUTPUT = "embedding"


def export_encoder(encoder: TextEncoder, path: str | Path | None = None) -> onnx.ModelProto:
    """Export an encoder, with pooling, head and normalisation, and compare it with torch.

    Args:
        encoder: What `truncate` gives; left as it is. Its numbers become 32-bit ones.
        path: File to write, none if None.

    Returns:
        A model from `input_ids` and `attention_mask`, integers of 64 bits `[texts, tokens]`, to `embedding`,
        unit vectors `[texts, embed_dim]`.

    Raises:
        ExportError: It differs from torch by more than 1e-4.
    """
    shadow = copy.deepcopy(encoder.module).cpu().float().eval()
    config: Any = shadow.backbone.config
    vocab_size, most = int(config.vocab_size), encoder.tokens.max_tokens
    rows = [[token % vocab_size for token in row[:most]] for row in _EXAMPLE]
    example = encoder.tokens.batch(rows)
    axes = {name: {0: "texts", 1: "tokens"} for name in example}
    content = export_module(shadow, example, OUTPUT, {**axes, OUTPUT: {0: "texts"}})
    error = _difference(content, shadow, encoder, vocab_size)
    if not error <= TOLERANCE:
        raise ExportError(
            f"the exported file differs from the encoder in torch by {error:.3g}, allowed: {TOLERANCE:g}; "
            "nothing was written. The backbone computes something that tracing does not keep"
        )
    if path is not None:
        write_bytes(Path(path), content)
    return onnx.load_model_from_string(content)


def _difference(content: bytes, module: nn.Module, encoder: TextEncoder, vocab_size: int) -> float:
    """Return the largest difference over batches of other sizes than the example's, padded and not."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rng, most = np.random.default_rng(0), encoder.tokens.max_tokens
    worst = 0.0
    for lengths in ([1], [most, most], [most, (most + 1) // 2, 1]):
        batch = encoder.tokens.batch([rng.integers(vocab_size, size=length).tolist() for length in lengths])
        found = session.run([OUTPUT], {name: part.numpy() for name, part in batch.items()})[0]
        with torch.no_grad():
            worst = max(worst, float(np.abs(found - module(**batch).numpy()).max()))
    return worst

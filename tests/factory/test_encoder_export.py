"""Encoders become ONNX files for any number of texts and tokens."""

import numpy as np
import onnxruntime
import pytest
import torch

from brickyard.core.errors import ExportError
from brickyard.factory.encoder_export import export_encoder
from brickyard.modularize import add_exits

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 16}
ROWS = [[4, 5, 6, 7], [8, 9], [11, 4, 10, 8, 5]]


def cut(*, kind: str = "Bert"):
    config = getattr(transformers, f"{kind}Config")(**SIZES, vocab_size=20, max_position_embeddings=32)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    return add_exits(model, exits=(1, 2), head="shared", embed_dim=8, max_tokens=16).truncate(2)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_the_file_embeds_what_the_encoder_embeds(kind, tmp_path):
    encoder = cut(kind=kind)
    export_encoder(encoder, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["input_ids", "attention_mask"]
    batch = encoder.tokens.batch(ROWS)
    found = session.run(["embedding"], {name: part.numpy() for name, part in batch.items()})[0]
    np.testing.assert_allclose(found, encoder.encode(ROWS).numpy(), atol=1e-6)


def test_numbers_of_low_precision_become_32_bit_ones():
    encoder = cut()
    expected = encoder.encode(ROWS)
    encoder.module.to(torch.bfloat16)
    content = export_encoder(encoder).SerializeToString()
    batch = encoder.tokens.batch(ROWS)
    session = onnxruntime.InferenceSession(content)
    found = session.run(None, {name: part.numpy() for name, part in batch.items()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=0.02)
    assert next(encoder.module.parameters()).dtype == torch.bfloat16


def test_what_tracing_does_not_keep_is_refused(tmp_path):
    encoder = cut()

    class Odd(torch.nn.Module):
        def forward(self, x):
            return x + (7.0 if len(x) == 1 else 0.0)  # decided while it is traced

    encoder.module.head = torch.nn.Sequential(encoder.module.head, Odd())
    with pytest.raises(ExportError, match=r"differs from the encoder in torch by .*; nothing was written"):
        export_encoder(encoder, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())

"""Networks that read tokens as ONNX for any number of tokens, compared with torch; needs torch.

A translator becomes two files, see `brickyard.factory.text_model`: the source is read once, the decoder runs
once for every token that is written, and computes the scores of the next one alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from brickyard.core.errors import ExportError
from brickyard.core.sequence import Memory, Span, Translator
from brickyard.export.whole import OPSET, TOLERANCE
from brickyard.factory.text_model import TOKENS, TextModel

_EXAMPLE_TOKENS = 5  # the files take any number; the exporter needs some


class _Encoder(nn.Module):
    """From ids of a source to the outputs that the decoder reads, `[outputs, tokens, width]`."""

    def __init__(self, translator: Translator, outputs: int) -> None:
        super().__init__()
        self.translator, self.outputs = translator, outputs

    def forward(self, source_1T: Tensor) -> Tensor:
        return torch.cat(self.translator.encode(source_1T).outputs[-self.outputs :])


class _Decoder(nn.Module):
    """From what is written and the encoder's outputs to the scores of the next token, `[1, vocabulary]`."""

    def __init__(self, translator: Translator) -> None:
        super().__init__()
        self.translator = translator
        self.zero = nn.Buffer(torch.zeros(1), persistent=False)

    def forward(self, written_1T: Tensor, memory_KSD: Tensor) -> Tensor:
        mask_1S = torch.ones_like(memory_KSD[:1, :, 0], dtype=torch.bool)
        stream_1TD = self.translator.decode(written_1T, Memory(memory_KSD.split(1), mask_1S))
        # As a sum with nothing the product keeps the weights as they are, so the file has those that the
        # embedding shares with it once; a plain product would bring a transposed copy.
        weight = self.translator.output.weight
        assert isinstance(weight, Tensor)
        return torch.addmm(self.zero, stream_1TD[:, -1], weight.t())


def export_files(module: nn.Module, *, max_tokens: int) -> dict[str, bytes]:
    """Export a plain module that reads ids.

    Args:
        module: What is extracted of a text classifier or a translator; put in evaluation mode.
        max_tokens: Most tokens that it reads.

    Returns:
        ONNX files by the names in `brickyard.factory.text_model.FILES`.
    """
    ids = torch.ones((1, min(_EXAMPLE_TOKENS, max_tokens)), dtype=torch.long)
    if not isinstance(module, Translator):
        return {"model.onnx": export_module(module, {"ids": ids}, "scores", {"ids": {1: "tokens"}})}
    outputs = max((part.count for part in module.modules() if isinstance(part, Span)), default=1)
    encoder = _Encoder(module, outputs).eval()
    with torch.no_grad():
        memory = encoder(ids)
    tokens = {1: "source_tokens"}
    return {
        "encoder.onnx": export_module(
            encoder, {"source": ids}, "memory", {"source": tokens, "memory": tokens}
        ),
        "decoder.onnx": export_module(
            _Decoder(module),
            {"written": ids, "memory": memory},
            "scores",
            {"written": {1: "written_tokens"}, "memory": tokens},
        ),
    }


def export_module(
    module: nn.Module, inputs: Mapping[str, Tensor], output: str, axes: Mapping[str, Mapping[int, str]]
) -> bytes:
    """Export a module of dynamic shapes.

    Args:
        module: The module; put into evaluation mode.
        inputs: Its arguments by name, an example.
        output: Name of what it returns.
        axes: Which axes of inputs and output may have any length, by name and place, with a name for each.

    Returns:
        Serialized ONNX.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of this exporter, about itself and about checks of shapes
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=axes,
        )
    return buffer.getvalue()


def check_files(model: TextModel, module: nn.Module, examples: Sequence[tuple[Sequence[int], ...]]) -> float:
    """Compare a model's files with the module that they were made of.

    Args:
        model: The files.
        module: The module, in evaluation mode.
        examples: Of a classifier ids of texts, of a translator those of sources and of targets.

    Returns:
        The largest difference of any score.

    Raises:
        ExportError: It is above 1e-4 of the largest score.
    """
    error, scale = 0.0, 1.0
    for ids in examples:
        if model.job == "texts":
            given, found = ids, [model.classify_ids(*ids)]
        else:
            source, target = ids
            written = [TOKENS["start"], *target]
            memory, given = model.encode(source), (source, written)
            # of a beginning of every length, as each comes up in the course of a translation
            found = [model.next_scores(written[:end], memory) for end in range(1, len(written) + 1)]
        with torch.no_grad():
            expected = module(*(torch.tensor([row]) for row in given))
        difference = torch.from_numpy(np.stack(found)) - expected.reshape(len(found), -1)
        error = max(error, float(difference.abs().max()))
        scale = max(scale, float(expected.abs().max()))
    if not error <= TOLERANCE * scale:
        raise ExportError(
            f"the exported file differs from the subnet in torch by {error:.3g} (allowed {TOLERANCE:g} of "
            "the scores' scale); nothing was written. The files may be damaged: train it or copy it anew"
        )
    return error

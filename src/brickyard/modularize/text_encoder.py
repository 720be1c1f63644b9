"""A plain encoder of texts: what is left when a multi-exit encoder is cut at an exit.

Its folder is one of sentence-transformers: the backbone as transformers writes it, then mean pooling, a dense
layer without activation where there is a head, and normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from brickyard.core.embedding import TextEmbedder
from brickyard.core.errors import ArtifactError, DataError
from brickyard.core.files import new_folder, write_bytes, write_json

Texts = Sequence[str] | Sequence[Sequence[int]]
Progress = Callable[[int, int], None]


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients, inside a `with` block."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class Tokens:
    """Turns texts into ids, and ids into padded batches.

    Args:
        tokenizer: A tokenizer of transformers; None where only ids are embedded.
        max_tokens: Most tokens of a text; longer texts are cut by the tokenizer, longer rows of ids refused.
        padding: Id of padding where there is no tokenizer.
        ids_below: Number of ids that there are, by which rows of ids are checked; None if it is not known.
    """

    def __init__(
        self, tokenizer: Any, *, max_tokens: int, padding: int = 0, ids_below: int | None = None
    ) -> None:
        self.tokenizer, self.max_tokens, self.ids_below = tokenizer, max_tokens, ids_below
        known = getattr(tokenizer, "pad_token_id", None)
        self.padding = padding if known is None else int(known)

    def ids(self, texts: Texts) -> list[list[int]]:
        """Return the ids of texts; rows of ids are checked and kept.

        Raises:
            DataError: One string comes in place of a list, there is no tokenizer, or a row is empty, too long
                or has an id that there is not.
        """
        if isinstance(texts, str):
            raise DataError(f"one text came, {texts[:40]!r}; give a list of texts")
        if all(isinstance(text, str) for text in texts):
            if not texts:
                return []
            if self.tokenizer is None:
                raise DataError(
                    "this encoder has no tokenizer; give rows of ids, or build it with a tokenizer"
                )
            try:
                rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
            except (TypeError, UnicodeError) as error:  # half a character, by its escape
                raise DataError(f"a text cannot be read by the tokenizer: {error}") from None
        else:
            rows = [self._row(place, text) for place, text in enumerate(texts)]
        for place, row in enumerate(rows):
            if not 1 <= len(row) <= self.max_tokens:
                raise DataError(
                    f"text {place} has {len(row)} tokens; allowed: 1 to max_tokens = {self.max_tokens}"
                )
        return [list(row) for row in rows]

    def _row(self, place: int, text: Any) -> list[int]:
        """Return a row of ids that was given in place of a text."""
        try:
            row = [index(token) for token in text]
        except TypeError:
            raise DataError(
                f"text {place} = {short(text)} is neither a text nor a row of ids; all must be of one kind"
            ) from None
        wrong = [token for token in row if token < 0 or (self.ids_below and token >= self.ids_below)]
        if wrong:
            upto = f" to {self.ids_below - 1}" if self.ids_below else " on"
            raise DataError(f"text {place} has the id {wrong[0]}; allowed: from 0{upto}")
        return row

    def batch(self, rows: Sequence[Sequence[int]], device: torch.device | None = None) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, `[batch, tokens]`, padded behind the longest row."""
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self.padding)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def __call__(self, texts: Texts) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask` of texts or rows of ids."""
        return self.batch(self.ids(texts))


def embed_texts(
    module: nn.Module,
    tokens: Tokens,
    texts: Texts,
    *,
    batch_size: int,
    progress: Progress | None = None,
    run: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Embed texts in batches of like length.

    Args:
        module: Put at rest meanwhile; from `input_ids` and `attention_mask` to `[batch, embed_dim]`.
        tokens: Makes the batches.
        texts: Texts, or rows of ids.
        batch_size: Texts at once.
        progress: Called with the texts that are done and all of them.
        run: Another function of the same arguments to `[batch, ...]`, that uses the module.

    Returns:
        Embeddings `[texts, embed_dim]` (or `[texts, ...]`) in the order of the texts, on the processor.

    Raises:
        DataError: There are no texts, or they cannot be read.
    """
    rows = tokens.ids(texts)
    if not rows or batch_size < 1:
        raise DataError(
            f"{len(rows)} texts in batches of {batch_size} cannot be embedded; give one or more of each"
        )
    device = next(module.parameters()).device
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]), reverse=True)
    found: list[Tensor] = []
    with at_rest(module):
        for start in range(0, len(order), batch_size):
            some = [rows[place] for place in order[start : start + batch_size]]
            found.append((module if run is None else run)(**tokens.batch(some, device)).cpu())
            if progress is not None:
                progress(start + len(some), len(rows))
    return torch.cat(found)[torch.tensor(order).argsort()]


class TextEncoder:
    """An encoder of texts without bricks.

    Attributes:
        module: Backbone, mean pooling, head and normalisation; from `input_ids` and `attention_mask` to unit
            vectors.
        tokens: Turns texts into its inputs.
    """

    def __init__(self, module: TextEmbedder, tokens: Tokens) -> None:
        self.module, self.tokens = module, tokens

    def encode(self, texts: Texts, *, batch_size: int = 32, progress: Progress | None = None) -> Tensor:
        """Embed texts.

        Args:
            texts: Texts, or rows of ids without padding.
            batch_size: Texts at once.
            progress: Called with the texts that are done and all of them.

        Returns:
            Unit vectors `[texts, embed_dim]`.

        Raises:
            DataError: There are no texts, or they cannot be read.
        """
        return embed_texts(self.module, self.tokens, texts, batch_size=batch_size, progress=progress)

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `SentenceTransformer(folder)` loads.

        Args:
            folder: Folder to write; must not exist or be empty.

        Returns:
            The folder.

        Raises:
            ArtifactError: The folder is taken, there is no tokenizer, or the backbone is none of
                transformers.
        """
        backbone: Any = self.module.backbone
        if self.tokens.tokenizer is None or not callable(getattr(backbone, "save_pretrained", None)):
            raise ArtifactError(
                "sentence-transformers needs a backbone of transformers and its tokenizer; keep the state "
                "dict of `module`, or build the encoder with a tokenizer"
            )
        target, head = Path(folder), self.module.head
        steps = ["Transformer", "Pooling", *(["Dense"] if isinstance(head, nn.Linear) else []), "Normalize"]
        paths = ["", *(f"{place}_{name}" for place, name in enumerate(steps) if place)]
        with new_folder(target) as place:
            backbone.save_pretrained(place)
            self.tokens.tokenizer.save_pretrained(place)
            for path in paths[1:]:
                (place / path).mkdir()
            records = [
                {
                    "idx": number,
                    "name": str(number),
                    "path": path,
                    "type": f"sentence_transformers.models.{name}",
                }
                for number, (name, path) in enumerate(zip(steps, paths, strict=True))
            ]
            write_json(place / "modules.json", records)
            settings = {"max_seq_length": self.tokens.max_tokens, "do_lower_case": False}
            write_json(place / "sentence_bert_config.json", settings)
            pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
            width = int(backbone.config.hidden_size)
            write_json(place / paths[1] / "config.json", {"word_embedding_dimension": width, **pooling})
            if isinstance(head, nn.Linear):
                _write_dense(place / paths[2], head)
        return target


def _write_dense(folder: Path, head: nn.Linear) -> None:
    """Write a head as a dense layer of sentence-transformers."""
    record = {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / "config.json", record)
    state = {f"linear.{name}": tensor.contiguous() for name, tensor in head.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(state))

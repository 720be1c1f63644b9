"""From text to token ids and back: byte-pair encoding (arXiv 1508.07909) over bytes, by `tokenizers`.

Every text can be written with the tokens, since all bytes are among them; decoding gives the text back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brickyard.core.errors import DataError, MissingExtraError
from brickyard.core.files import write_text

if TYPE_CHECKING:
    import tokenizers

_SPECIAL = ("<padding>", "<start>", "<end>")  # of the ids 0, 1, 2, as the networks have them
_BYTES = 256


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers", extra="text") from None
    return tokenizers


class Tokenizer:
    """Tokens of a vocabulary; ids 0, 1 and 2 are padding, start and end.

    Args:
        inner: The tokenizer of the library.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self.inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, lower: bool = False) -> Tokenizer:
        """Learn a vocabulary.

        Args:
            texts: What to learn from.
            vocab_size: Most tokens; there may be fewer, as many as the texts give.
            lower: Whether upper and lower case are the same.

        Returns:
            The tokenizer.

        Raises:
            DataError: There is no room beside the bytes.
            MissingExtraError: The `tokenizers` library is not installed.
        """
        least = _BYTES + len(_SPECIAL) + 1
        if vocab_size < least:
            raise DataError(
                f"vocab_size is {vocab_size}; at least {least} are needed, as all bytes are tokens"
            )
        library = _library()
        inner = library.Tokenizer(library.models.BPE())
        normal: list[Any] = [library.normalizers.NFC()]
        inner.normalizer = library.normalizers.Sequence(
            normal + ([library.normalizers.Lowercase()] if lower else [])
        )
        inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(_SPECIAL),
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @property
    def vocab_size(self) -> int:
        """Number of different ids."""
        return int(self.inner.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without start and end."""
        # What is written like a special token is text like any other.
        return [list(found.ids) for found in self.inner.encode_batch([_plain(text) for text in texts])]

    def decode(self, ids: Iterable[Iterable[int]]) -> list[str]:
        """Return the texts of ids; padding, start and end are left out."""
        kept = [[number for number in row if number >= len(_SPECIAL)] for row in ids]
        return [str(text).strip() for text in self.inner.decode_batch(kept)]

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON of the library, whole or not at all."""
        write_text(path, self.inner.to_str(pretty=False))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or is no tokenizer.
            MissingExtraError: The `tokenizers` library is not installed.
        """
        library = _library()
        try:
            return cls(library.Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; expected a tokenizer there") from None
        except Exception as error:  # noqa: BLE001  # the library raises plain exceptions
            raise DataError(f"{path} is not a tokenizer ({error}); make it again") from None


_SPECIAL_TEXT = re.compile("|".join(map(re.escape, _SPECIAL)))


def _plain(text: str) -> str:
    return _SPECIAL_TEXT.sub(lambda found: f"< {found.group()[1:]}", text)

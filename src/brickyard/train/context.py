"""What an encoder of code learns from the repository around it: hidden tokens, and what belongs together.

Pre-training of ModularStarEncoder (arXiv 2503.03008): pieces of code are put in one row; at every exit the
encoder guesses hidden tokens (MLM) and tells whether the pieces come from one repository (in-context
classification). Both heads are shared by all exits, which an embedding of the layer tells apart. Here a row
holds two pieces, and the mean over tokens is classified. Tokens are hidden as in BERT (arXiv 1810.04805,
section 3.1); its decoder is the table of token embeddings, as there.

Shape suffixes: B rows, T tokens, D width of the states, V tokens of the vocabulary, M hidden tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.embedding import mean_pool
from brickyard.core.errors import TrainError

_STD = 0.02  # of fresh layer embeddings, as in BERT
_HIDE, _RANDOM = 0.8, 0.1  # of the tokens to guess: share shown as the mask, share shown as another token
_IGNORED = -100


class ContextBatch(NamedTuple):
    """Rows of two pieces.

    Attributes:
        input_ids: Ids `[rows, tokens]`, some of them hidden.
        attention_mask: 1 at real tokens, 0 at padding.
        hidden: What hidden tokens are, -100 elsewhere, `[rows, tokens]`.
        same: 1 where both pieces come from one source, else 0, `[rows]`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    hidden: Tensor
    same: Tensor


class ContextTexts:
    """Gives rows of two pieces, half of them of one source, with hidden tokens.

    Args:
        texts: Pieces of code.
        sources: Where each comes from, such as its repository; the second piece of a row is another piece of
            the same source, or one of another source.
        tokenizer: A tokenizer of transformers, which joins two texts in its own way; with `[SEP]` in BERT's.
        max_tokens: Most tokens of a row; the longer piece is cut.
        batch_size: Rows of a batch.
        mask_share: Share of the tokens to guess, at least one of a row.
        seed: Seed of all draws.

    Raises:
        TrainError: There are not two sources, of which one has two pieces; or the tokenizer has no mask.
    """

    def __init__(
        self,
        texts: Sequence[str],
        sources: Sequence[str],
        tokenizer: Any,
        *,
        max_tokens: int = 128,
        batch_size: int,
        mask_share: float = 0.15,
        seed: int = 0,
    ) -> None:
        if len(texts) != len(sources):
            raise TrainError(f"{len(texts)} texts and {len(sources)} sources came; give each text its source")
        if batch_size < 1 or not 0 < mask_share < 1:
            raise TrainError(
                f"batch_size = {batch_size} must be above 0 and mask_share = {mask_share} lie in (0, 1)"
            )
        groups: dict[str, list[int]] = {}
        for place, source in enumerate(sources):
            groups.setdefault(source, []).append(place)
        self._first = [place for places in groups.values() if len(places) > 1 for place in places]
        if len(groups) < 2 or not self._first:
            raise TrainError(
                f"{len(texts)} texts of {len(groups)} sources came; context needs 2 sources or more, of "
                "which one has 2 texts or more"
            )
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise TrainError(
                f"{type(tokenizer).__name__} has no mask token, so tokens cannot be hidden; give the "
                "tokenizer of an encoder"
            )
        self.texts, self.sources, self.tokenizer = texts, sources, tokenizer
        self.max_tokens, self.batch_size = max_tokens, batch_size
        self.mask_share, self.seed = mask_share, seed
        self._groups = groups

    def __call__(self, step: int) -> ContextBatch:
        """Return the rows of a step.

        Raises:
            TrainError: They have no tokens to hide.
        """
        rng = np.random.default_rng([self.seed, step])
        same = rng.integers(2, size=self.batch_size)
        firsts = rng.choice(self._first, size=self.batch_size)
        seconds = [self._second(int(one), bool(both), rng) for one, both in zip(firsts, same, strict=True)]
        joined = self.tokenizer(
            [self.texts[place] for place in firsts],
            [self.texts[place] for place in seconds],
            truncation=True,
            max_length=self.max_tokens,
            padding=True,
            return_tensors="pt",
        )
        ids_BT, mask_BT = joined["input_ids"], joined["attention_mask"]
        shown_BT, hidden_BT = self._hide(ids_BT, rng)
        if bool((hidden_BT == _IGNORED).all()):
            raise TrainError(
                f"the rows of step {step} have no tokens to hide; max_tokens = {self.max_tokens} must leave "
                "room for words beside the tokens that join them"
            )
        return ContextBatch(shown_BT, mask_BT, hidden_BT, torch.from_numpy(same))

    def _second(self, first: int, same: bool, rng: np.random.Generator) -> int:
        """Draw the second piece of a row."""
        own = self._groups[self.sources[first]]
        while True:
            place = int(rng.choice(own)) if same else int(rng.integers(len(self.texts)))
            if place != first and (same or self.sources[place] != self.sources[first]):
                return place

    def _hide(self, ids_BT: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return ids of which some are hidden, and what these are."""
        special = [
            self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True)
            for row in ids_BT.tolist()
        ]
        draws_BT = torch.from_numpy(rng.random(ids_BT.shape)).masked_fill(torch.tensor(special) == 1, 2.0)
        guessed_BT = (draws_BT < self.mask_share) | (draws_BT == draws_BT.amin(1, keepdim=True))
        guessed_BT &= draws_BT < 1
        how_BT = torch.from_numpy(rng.random(ids_BT.shape))
        others_BT = torch.from_numpy(rng.integers(self.tokenizer.vocab_size, size=ids_BT.shape))
        shown_BT = torch.where(guessed_BT & (how_BT < _HIDE), self.tokenizer.mask_token_id, ids_BT)
        changed_BT = guessed_BT & (how_BT >= _HIDE) & (how_BT < _HIDE + _RANDOM)
        return torch.where(changed_BT, others_BT, shown_BT), ids_BT.masked_fill(~guessed_BT, _IGNORED)


class ContextLosses(NamedTuple):
    """What a batch costs, by exit.

    Attributes:
        mlm: Mean cross entropy of hidden tokens.
        same_source: Mean cross entropy of whether pieces come from one source.
    """

    mlm: dict[int, Tensor]
    same_source: dict[int, Tensor]


class ContextLoss(nn.Module):
    """Heads that guess hidden tokens and common sources, shared by all exits; used in training only.

    Args:
        exits: Layers in front of each exit, ascending.
        width: Width of the states.
        table: Token embeddings of the backbone `[vocabulary, any width]`; it is used and trained, but belongs
            to the backbone.
        seed: Seed of fresh weights.
    """

    def __init__(self, exits: Sequence[int], width: int, table: nn.Embedding, *, seed: int = 0) -> None:
        super().__init__()
        self.exits, self._table = tuple(exits), [table]  # a list, so that it is no part of this module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer_embedding = nn.Parameter(_STD * torch.randn(len(self.exits), width))
            self.guess = nn.Sequential(
                nn.Linear(width, table.embedding_dim), nn.GELU(), nn.LayerNorm(table.embedding_dim)
            )
            self.guess_bias = nn.Parameter(torch.zeros(table.num_embeddings))
            self.judge = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, states: Mapping[int, Tensor], batch: ContextBatch) -> ContextLosses:
        """Compare what the heads say at every exit with what is true.

        Args:
            states: States `[rows, tokens, width]` by exit.
            batch: The rows, on the device of the states.
        """
        mlm, same_source = {}, {}
        place_BT = batch.hidden != _IGNORED
        truth_M, same_B = batch.hidden[place_BT], batch.same.float()
        for number, exit in enumerate(self.exits):
            layer_D = self.layer_embedding[number]
            guess_MD = self.guess(states[exit][place_BT] + layer_D)
            scores_MV = F.linear(guess_MD, self._table[0].weight, self.guess_bias)
            mlm[exit] = F.cross_entropy(scores_MV.float(), truth_M)
            pooled_BD = mean_pool(states[exit], batch.attention_mask)
            says_B = self.judge(pooled_BD + layer_D).squeeze(1)
            same_source[exit] = F.binary_cross_entropy_with_logits(says_B.float(), same_B)
        return ContextLosses(mlm, same_source)

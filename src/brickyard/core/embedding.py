"""Plain torch container that makes one vector of a text; like those of `plain`, it knows no decisions.

Shape suffixes: B batch, T tokens, D width of the backbone's states, E width of embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mean_pool(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean over real tokens, `[batch, width]`.

    Args:
        states_BTD: States of the tokens.
        mask_BT: 1 or True at real tokens, 0 or False at padding; a row without real tokens gives zeros.
    """
    weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
    return (states_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1e-9)


def states_of(output: Any) -> Tensor:
    """Return the states of the tokens, `[batch, tokens, width]`, from what a backbone gives.

    Args:
        output: A tensor, or a record of transformers that has `last_hidden_state`.

    Raises:
        TypeError: It is neither.
    """
    states = output if isinstance(output, Tensor) else getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor):
        raise TypeError(f"a {type(output).__name__} has no last_hidden_state")
    return states


class TextEmbedder(nn.Module):
    """A backbone, the mean over its real tokens, a head, and division by the length of the vector.

    Args:
        backbone: Takes `input_ids` and `attention_mask`; gives states `[batch, tokens, width]`.
        head: From `[batch, width]` to `[batch, embed_dim]`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed texts.

        Args:
            input_ids: Ids `[batch, tokens]`.
            attention_mask: 1 at real tokens, 0 at padding; all are real if None.

        Returns:
            Unit vectors `[batch, embed_dim]`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states_BTD = states_of(self.backbone(input_ids=input_ids, attention_mask=attention_mask))
        y_BE: Tensor = self.head(mean_pool(states_BTD, attention_mask))
        return F.normalize(y_BE, dim=-1)

"""Everything that decides how a task is learned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from brickyard.continual.network import Arm
from brickyard.core.errors import TrainError

Transfer = Literal["off", "best", "average"]


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """Everything that decides how tasks are learned.

    Attributes:
        arm: `exssnet` trains only weights that no earlier task's mask holds, so nothing is forgotten; `ssnet`
            trains all weights under the mask, which changes earlier tasks; `supsup` trains none.
        mask_epochs: Passes over the examples that train the mask.
        weight_epochs: Passes after them that train the weights; 0 for `supsup`, at least 1 for the others, or
            0 if `joint`.
        joint: Whether the weights are trained while the mask is, too: those under the mask of each step. The
            ones that are under the last mask stay; no other changes. Not for `supsup`.
        batch_size: Examples per step.
        mask_rate: Peak learning rate of the scores; Adam, a tenth of the steps up, then by a cosine to 0.
        weight_rate: Peak learning rate of weights; the same.
        own_rate: Peak learning rate of biases, normalisation and own heads; None for `weight_rate`.
        transfer: Where the mask starts from: `off` at random; `best` from the earlier task whose features
            suit the new one best; `average` from all earlier tasks whose features suit it. See
            `brickyard.continual.transfer`.
        neighbours: Neighbours that vote when features are compared.
        transfer_samples: Most examples that features are compared on.
        seed: Seed of scores, heads and order of the examples, at least 0; each task draws its own from it.
    """

    arm: Arm = "exssnet"
    mask_epochs: int = 10
    weight_epochs: int = 10
    joint: bool = False
    batch_size: int = 64
    mask_rate: float = 3e-3
    weight_rate: float = 1e-2
    own_rate: float | None = None
    transfer: Transfer = "off"
    neighbours: int = 10
    transfer_samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            TrainError: A value is of another kind, is out of range, or does not go with the arm.
        """
        for name, allowed in (
            ("arm", ("exssnet", "ssnet", "supsup")),
            ("transfer", ("off", "best", "average")),
        ):
            if getattr(self, name) not in allowed:
                raise TrainError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        least = {"mask_epochs": 1, "batch_size": 1, "neighbours": 1, "transfer_samples": 1, "seed": 0}
        for name in (*least, "weight_epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TrainError(f"{name} = {value!r} must be a whole number, an int")
            if name in least and value < least[name]:
                raise TrainError(f"{name} = {value} must be at least {least[name]}")
        for name in ("mask_rate", "weight_rate", *(() if self.own_rate is None else ("own_rate",))):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TrainError(f"{name} = {value!r} must be a number")
            if not 0 < value < math.inf:
                raise TrainError(f"{name} = {value} must be above 0 and finite")
        if not isinstance(self.joint, bool):
            raise TrainError(f"joint = {self.joint!r} must be True or False")
        if self.arm == "supsup" and self.joint:
            raise TrainError("joint does not go with arm 'supsup', which trains no weights")
        least_weights = 0 if self.arm == "supsup" or self.joint else 1
        if self.weight_epochs < least_weights or (self.arm == "supsup" and self.weight_epochs):
            raise TrainError(
                f"weight_epochs = {self.weight_epochs} does not go with arm {self.arm!r}: supsup trains no "
                "weights and needs 0, the others at least 1, or 0 if joint"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

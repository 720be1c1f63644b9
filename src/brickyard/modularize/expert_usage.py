"""How tokens spread over the experts of a transformer, in a plain loop or under transformers' Trainer.

The choice follows the keys, so nothing has to be balanced; this only looks. Every token that passes a layer
counts, padding too, and twice where gradient checkpointing computes a layer again.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.bricks.experts import Experts
from brickyard.core.errors import MissingExtraError, ModularizeError
from brickyard.modularize.transformer import ModularTransformer


class ExpertUsage:
    """Counts the tokens of each expert while it is started; a `with` block starts and stops it.

    Args:
        modular: A transformer with experts, in any mode; what it computes does not change.

    Raises:
        ModularizeError: The model is dense again.

    Example:
        >>> with ExpertUsage(modular) as usage:
        ...     train(modular.model)
        >>> usage.summary()
    """

    def __init__(self, modular: ModularTransformer) -> None:
        if not modular.experts:
            raise ModularizeError("this model is dense again; modularize it anew for experts")
        self._experts = dict(modular.experts)
        self._handles: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self._counts = {
            path: torch.zeros(experts.split.subset.count, dtype=torch.long)
            for path, experts in self._experts.items()
        }
        self._tokens = dict.fromkeys(self._experts, 0)

    def start(self) -> None:
        """Count from now on; once started, this does nothing."""
        if self._handles:
            return

        def watch(path: str) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                assert isinstance(module, Experts)
                active = torch.tensor(list(module.split.subset.value))
                use = module.choices(args[0].detach())
                found = torch.bincount(active[use.reshape(-1).cpu()], minlength=module.split.subset.count)
                self._counts[path] += found
                self._tokens[path] += use[..., 0].numel()

            return hook

        self._handles = [
            experts.register_forward_pre_hook(watch(path)) for path, experts in self._experts.items()
        ]

    def stop(self) -> None:
        """Count no longer; what was counted stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> ExpertUsage:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def shares(self) -> dict[str, Tensor]:
        """Return by layer the share of tokens that use each expert, `[experts]`; the sum is `top_k`.

        Layers without tokens are left out.
        """
        return {
            path: count / self._tokens[path] for path, count in self._counts.items() if self._tokens[path]
        }

    def summary(self) -> dict[str, float]:
        """Return two numbers of each layer that had tokens.

        `experts/PATH/idle` is the share of experts that no token used; `experts/PATH/most` how often the most
        used one was used, by the mean of all: 1 where all are used alike.
        """
        found = {}
        for path, share in self.shares().items():
            found[f"experts/{path}/idle"] = float((share == 0).float().mean())
            found[f"experts/{path}/most"] = float(share.max() / share.mean())
        return found


def usage_callback(modular: ModularTransformer) -> Any:
    """Return a callback for `transformers.Trainer` that logs how tokens spread over experts.

    The numbers of `ExpertUsage.summary` since the last log stand in the entries of
    `trainer.state.log_history` and in what is printed. Integrations such as TensorBoard come before callbacks
    of users, so they do not get them.

    Args:
        modular: A transformer with experts, whose model is trained.

    Raises:
        ModularizeError: The model is dense again.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtraError("transformers", extra="transformers") from None
    usage = ExpertUsage(modular)

    class UsageCallback(TrainerCallback):
        """Counts while the model trains."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            """Start."""
            usage.reset()
            usage.start()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any
        ) -> None:
            """Add the numbers to an entry, and begin anew."""
            numbers = usage.summary()
            if logs is not None:
                logs.update(numbers)
            if state.log_history:
                state.log_history[-1].update(numbers)
            usage.reset()

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            """Stop."""
            usage.stop()

    return UsageCallback()

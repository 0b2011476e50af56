"""`RowOptimizer`: an optimizer of DTensors that steps rows while an engine works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["RowOptimizer", "like"]


class RowOptimizer:
    """An optimizer of which some parameters are sharded.

    Where a rule is one of each number by itself, rows are stepped as the whole is. While an engine
    works the optimizer holds rows, and its state is of rows; outside it holds DTensors.

    Args:
        optimizer: of the user's.
        rows: DTensors and the rows of each, by the identity of the first.
    """

    def __init__(self, optimizer: Any, rows: Mapping[int, tuple[Any, Tensor]]) -> None:
        self.optimizer, self._rows = optimizer, rows
        self._whole = {id(own): p for p, own in rows.values()}
        self._wrapped: dict[int, Any] = {}  # DTensors of state, by the identity of their rows

    def enter(self) -> None:
        """Rows for DTensors."""

        def step(p: Any) -> Any:
            return self._rows[id(p)][1] if id(p) in self._rows else p

        def state(p: Any, held: Any) -> Any:
            local = getattr(held, "_local_tensor", None) if id(p) in self._rows else None
            if local is None:
                return held
            self._wrapped[id(local)] = held
            return local

        self._exchange(step, state)

    def leave(self) -> None:
        """DTensors for rows."""
        before, self._wrapped = self._wrapped, {}

        def step(p: Any) -> Any:
            return self._whole.get(id(p), p)

        def state(p: Any, held: Any) -> Any:
            parameter = self._whole.get(id(p))
            if parameter is None or not isinstance(held, Tensor) or held.shape != p.shape:
                return held
            known = before.get(id(held))
            return like(parameter, held) if known is None else known

        self._exchange(step, state)

    def _exchange(self, step: Any, state: Any) -> None:
        """Others for the tensors that are held; at no time is anything of the state left out."""
        for group in self.optimizer.param_groups:
            group["params"][:] = [step(p) for p in group["params"]]
        held = self.optimizer.state
        for p, own in [*held.items()]:
            for key, value in [*own.items()] if isinstance(own, dict) else ():
                own[key] = state(p, value)
            if (other := step(p)) is not p:
                held[other] = own
                del held[p]


def like(parameter: Any, rows: Tensor, shape: torch.Size | None = None) -> Any:
    """A DTensor of these rows, placed as a parameter is, and of its shape if no other is given."""
    from torch.distributed.tensor import DTensor

    whole: torch.Size = parameter.shape if shape is None else shape
    return DTensor.from_local(
        rows.detach(), parameter.device_mesh, parameter.placements, run_check=False,
        shape=whole, stride=torch.empty(whole, device="meta").stride(),
    )  # fmt: skip

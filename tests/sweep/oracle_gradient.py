"""What the oracle of nested levels gives for the last problem of a list."""

from __future__ import annotations

from typing import Any

import torch
from nested_oracle import Nested
from torch import Tensor


def hypergradient(nodes: list[Any], kinds: dict[Any, Any], oracle: type[Nested] = Nested) -> Tensor:
    """That of the last problem as a vector."""
    found = oracle(nodes, kinds).hypergradient(nodes[-1])
    return torch.cat([t.flatten() for v in found.values() for t in v.values() if t is not None])


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def as_function(nodes: list[Any], kinds: dict[Any, Any]) -> tuple[Any, Tensor]:
    """The last objective as a function of the last variables in one vector, and where they are."""
    oracle, top = Nested(nodes, kinds), nodes[-1]
    start = oracle.standing(top)

    def value(x: Tensor) -> Tensor:
        pieces = x.split([t.numel() for t in start.values()])
        return oracle.evaluate(top, dict(zip(start, pieces, strict=True)))[0].detach()

    return value, torch.cat([t.flatten() for t in start.values()])

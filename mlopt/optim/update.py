"""From a torch optimizer to its update rule."""

from __future__ import annotations

from typing import Any

import torch

from .._errors import GraphError
from ._rule import AbstractUpdate
from .adam import AdamUpdate
from .sgd import SGDUpdate

__all__ = ["AbstractUpdate", "update_of"]

# By exact type: a subclass may update otherwise.
_RULES: dict[type, AbstractUpdate] = {
    torch.optim.SGD: SGDUpdate(),
    torch.optim.Adam: AdamUpdate(decoupled=False),
    torch.optim.AdamW: AdamUpdate(decoupled=True),
}


def update_of(optimizer: Any, name: str) -> AbstractUpdate:
    """The update rule of an optimizer.

    Args:
        optimizer: an instance of `torch.optim.SGD`, `Adam` or `AdamW`.
        name: the problem's label, for the error.

    Returns:
        The rule.

    Raises:
        GraphError: the optimizer's update is not known here.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(t.__name__ for t in _RULES)
        raise GraphError(
            f"{name}: the look-ahead of {type(optimizer).__name__} is not known (known: {known}). "
            "Give OneStep(lr=...), the plain gradient step; the optimizer still makes the update."
        )
    return rule

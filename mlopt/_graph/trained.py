"""`trainable`: what of its variables a problem updates."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .._tensors import Tensors
from .._variable import Variable
from .problem import Problem

__all__ = ["trainable"]


def trainable(
    problem: Problem, named: Callable[[Variable], dict[str, Tensor]] = Variable.named_parameters
) -> Tensors:
    """The parameters that a problem updates: those its optimizer holds, if any, not frozen ones.

    Args:
        problem: the problem.
        named: (variable) -> its parameters by name.

    Returns:
        Tensors by key.
    """
    held = None
    if problem.optimizer is not None:
        held = {id(p) for group in problem.optimizer.param_groups for p in group["params"]}
    return {
        (v, name): p
        for v in problem.over
        for name, p in named(v).items()
        if p.requires_grad and (held is None or id(p) in held)
    }

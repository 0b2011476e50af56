"""Functions that are not smooth, whose differences need not agree with their derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._graph.problem import Problem
from .values import Frame, Values

__all__ = ["WARNING", "kinked", "made_by_kinks"]

WARNING = (
    "Kinks at {}. Operations with kinks (ReLU, max pooling, abs, clamp) are in there, and the "
    "slope depends on the radius, or on the way it is taken: differences count the units that flip "
    "between their two sides, double backward does not see kinks. Neither is a bug, and a smaller "
    "radius need not help. To check the code, audit the same graph with smooth operations "
    "(Softplus or Tanh for ReLU, average pooling for max pooling)."
)

_KINKS = (
    "Relu", "LeakyRelu", "Prelu", "Rrelu", "MaxPool", "AdaptiveMaxPool", "MkldnnMaxPool",
    "MaxBackward", "MinBackward", "Maximum", "Minimum", "Amax", "Amin", "Abs", "Clamp", "Hardtanh",
    "Hardswish", "Hardsigmoid", "Threshold", "Hardshrink", "Softshrink", "Sort", "Topk", "L1Loss",
)  # fmt: skip


def kinked(values: Values, problem: Problem, upper: Problem) -> bool:
    """Whether operations with kinks are in a problem's objective, as an upper one sees it."""
    if problem not in values.kinked:
        settles, values.settles = values.settles, False
        own = {k: t.requires_grad_() for k, t in values.standing(problem).items()}
        top = Frame(values, upper, own if problem is upper else values.standing(upper))
        at = top if problem is upper else top.below(problem, own)
        with torch.enable_grad():
            values.kinked[problem] = made_by_kinks(values.objective(at)[0])
        values.settles = settles
    return values.kinked[problem]


def made_by_kinks(loss: Tensor) -> bool:
    """Whether operations without a derivative somewhere made a value: ReLU, max, abs, clamp.

    Args:
        loss: the value.

    Returns:
        Whether one is in its graph.
    """
    seen: set[Any] = set()
    stack = [loss.grad_fn]
    while stack:
        at = stack.pop()
        if at is None or at in seen:
            continue
        seen.add(at)
        if at.name().startswith(_KINKS):
            return True
        stack.extend(f for f, _ in at.next_functions)
    return False

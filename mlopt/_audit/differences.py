"""Slopes of functions of one number by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Slope", "differentiate", "floor"]


@dataclass(frozen=True)
class Slope:
    """A derivative by differences.

    Attributes:
        value: extrapolated from the two radii that agree best.
        spread: how far the largest radius is from it.
        unsure: how far the smallest radii are from each other.
        scale: of the function.
        floor: below which the value has too few digits.
    """

    value: float
    spread: float
    unsure: float
    scale: float
    floor: float


def differentiate(double: bool, f: Callable[[float], float]) -> Slope:
    """f'(0) by central differences at four radii, extrapolated.

    Args:
        double: whether f is computed in float64.
        f: a function of a displacement.

    Returns:
        The slope, and how sure it is.
    """
    radii = (1e-2, 1e-3, 1e-4, 1e-5) if double else (3e-1, 1e-1, 3e-2, 1e-2)
    slopes, scale = [], 1.0
    for h in radii:
        plus, minus = f(h), f(-h)
        slopes.append((plus - minus) / (2 * h))
        scale = max(scale, abs(plus)) if math.isfinite(plus) else scale
    ratios = [(a / b) ** 2 for a, b in zip(radii, radii[1:], strict=False)]
    better = [
        (q * fine - coarse) / (q - 1)
        for q, coarse, fine in zip(ratios, slopes, slopes[1:], strict=False)
    ]
    value = better[1]  # the best of both: little truncation, little rounding
    rounding = 1e2 * _eps(double) * scale / radii[-1]
    change = abs(better[2] - value)
    if not change <= max(rounding, 1e-6 * abs(value)):  # NaN too: f is not defined so far off
        value = better[2]
    return Slope(value, abs(slopes[0] - value), change, scale, floor(double, scale))


def floor(double: bool, size: float) -> float:
    """What a slope is not to be divided by less than: differences do not see more digits."""
    return (2e10 if double else 1e2) * _eps(double) * size


def _eps(double: bool) -> float:
    return torch.finfo(torch.float64 if double else torch.float32).eps

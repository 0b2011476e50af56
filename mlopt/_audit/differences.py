"""Slopes of functions of one number by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Slope", "differentiate", "floor", "share"]


@dataclass(frozen=True)
class Slope:
    """A derivative by differences.

    Attributes:
        value: extrapolated from the two radii that agree best.
        spread: how far the largest radius is from it.
        unsure: how far the smallest radii are from each other.
        scale: of the function.
        floor: below which the value has too few digits.
        noise: what rounding may make of it.
        share: of a slope, by which what is compared with it may differ.
    """

    value: float
    spread: float
    unsure: float
    scale: float
    floor: float
    noise: float
    share: float

    def blur(self, size: float) -> float:
        """By how much what is said of a slope of some size may differ from this one."""
        return self.share * (size + self.floor) + self.noise


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
    noise = 16 * _eps(double) * scale / radii[-1]  # some roundings, of which none cancel
    spread = abs(slopes[0] - value)
    return Slope(value, spread, change, scale, floor(double, scale), noise, share(double))


def floor(double: bool, size: float) -> float:
    """What a slope is not to be divided by less than: differences do not see more digits."""
    return (2e10 if double else 1e2) * _eps(double) * size


def share(double: bool) -> float:
    """Of what is compared with a slope, by which it may differ and be right."""
    return 1e-3 if double else 5e-2


def _eps(double: bool) -> float:
    return torch.finfo(torch.float64 if double else torch.float32).eps

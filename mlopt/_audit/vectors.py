"""Tensors by key as one real vector: flattened, displaced, compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._tensors import Key, Tensors, like, real

__all__ = ["compare", "dimension", "directions", "displaced", "flat", "shaped"]


def flat(tensors: Mapping[Key, Tensor], point: Tensors) -> Tensor:
    """One real vector, in the order of a point; absent keys are zero. Empty, if the point is."""
    # Complex numbers as pairs: then a sum of products is that by which gradients are slopes.
    parts = [tensors[k] if k in tensors else torch.zeros_like(t) for k, t in point.items()]
    return torch.cat([real(t).reshape(-1) for t in parts]) if parts else torch.zeros(0)


def shaped(vector: Tensor, point: Tensors) -> Tensors:
    """The inverse of `flat`."""
    parts = vector.split([real(t).numel() for t in point.values()])
    pairs = zip(point.items(), parts, strict=True)
    return {k: like(p.view(real(t).shape), t) for (k, t), p in pairs}


def dimension(point: Tensors) -> int:
    """Of how many real numbers it is."""
    return sum(real(t).numel() for t in point.values())


def directions(point: Tensors, count: int, seed: int) -> Iterator[Tensors]:
    """Unit directions: random, or each number's own where there are no more than that."""
    size = dimension(point)
    generator = torch.Generator().manual_seed(seed)
    for i in range(min(count, size)):
        if size <= count:
            vector = torch.eye(size, dtype=torch.float64)[i]
        else:
            vector = torch.randn(size, generator=generator, dtype=torch.float64)
        unit = shaped(vector / vector.norm(), point)
        yield {k: t.to(point[k].device) for k, t in unit.items()}


def displaced(point: Tensors, direction: Tensors, h: float) -> Tensors:
    """The constants point + h direction."""
    return {k: t.detach() + h * direction[k] for k, t in point.items()}


def compare(ours: Tensor, oracle: Tensor, least: float = 0.0) -> tuple[float, Any, Any]:
    """Relative error, cosine and ratio of norms; the last two None for what is as good as zero."""
    ours, oracle = ours.double(), oracle.double()
    a, b, off = float(ours.norm()), float(oracle.norm()), float((ours - oracle).norm())
    if off == 0.0:
        return 0.0, 1.0, 1.0
    if max(a, b) < 1e-4 * least:
        return off / least, None, None  # as good as zero
    cosine = float(ours @ oracle) / (a * b) if a and b else 0.0
    return off / max(b, least, 1e-300), cosine, a / b if b else math.inf

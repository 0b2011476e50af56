"""Tensors by key as one vector: flattened, displaced, compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._tensors import Key, Tensors

__all__ = ["compare", "directions", "displaced", "flat", "shaped"]


def flat(tensors: Mapping[Key, Tensor], like: Tensors) -> Tensor:
    """One vector, in the order of `like`; absent keys are zero. Of no numbers, if it has none."""
    parts = [tensors[k] if k in tensors else torch.zeros_like(t) for k, t in like.items()]
    return torch.cat([t.reshape(-1) for t in parts]) if parts else torch.zeros(0)


def shaped(vector: Tensor, like: Tensors) -> Tensors:
    """The inverse of `flat`."""
    parts = vector.split([t.numel() for t in like.values()])
    return {k: p.view(t.shape) for (k, t), p in zip(like.items(), parts, strict=True)}


def directions(point: Tensors, count: int, seed: int) -> Iterator[Tensors]:
    """Unit directions: random, or each number's own where there are no more than that."""
    size = sum(t.numel() for t in point.values())
    generator = torch.Generator().manual_seed(seed)
    for i in range(min(count, size)):
        vector = torch.eye(size, dtype=torch.float64)[i] if size <= count else torch.randn(
            size, generator=generator, dtype=torch.float64)  # fmt: skip
        parts = (vector / vector.norm()).split([t.numel() for t in point.values()])
        yield {k: p.view(t.shape).to(t) for (k, t), p in zip(point.items(), parts, strict=True)}


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

"""Derivatives by key: the one place where the library goes back through a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._tensors import Tensors

__all__ = ["backward_passes", "derivatives"]

_count = 0


def backward_passes() -> int:
    """How many there have been in this process; a difference of two says what a block needed."""
    return _count


def derivatives(
    outputs: Sequence[Tensor],
    inputs: Tensors,
    cotangents: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> Tensors:
    """The vector-Jacobian product of some tensors, by those of the inputs they depend on.

    Args:
        outputs: what is differentiated.
        inputs: by what, by key.
        cotangents: one for each output; None for a lone scalar.
        create_graph: whether the result is to be differentiated in its turn.
        retain_graph: whether the graph will be gone through again; by default as `create_graph`.

    Returns:
        Tensors by key; inputs that nothing depends on are absent.
    """
    global _count
    if not outputs or not inputs:
        return {}
    _count += 1
    found = torch.autograd.grad(
        list(outputs),
        list(inputs.values()),
        None if cotangents is None else list(cotangents),
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
    )
    return {k: g for k, g in zip(inputs, found, strict=True) if g is not None}

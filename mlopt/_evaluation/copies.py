"""`copied`: copies of tensors that share memory with one another as these do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._tensors import clone
from .aliases import address
from .layouts import copy, form, plain

__all__ = ["copied", "laid_out", "overlaps", "separate"]


def overlaps(tensor: Tensor) -> bool:
    """Whether a tensor has several numbers in one place, as expanded ones do."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_contiguous():
        return False
    return any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))


def separate(tensors: Sequence[Tensor | None]) -> bool:
    """Whether there is a plain array everywhere, each with memory of its own."""
    seen: set[int] = set()
    for t in tensors:
        if t is None or not plain(t) or (at := address(t)) in seen or overlaps(t):
            return False
        if at:
            seen.add(at)
    return True


def copied(tensors: Sequence[Any]) -> list[Any]:
    """Copies, with None where there is none; what shares memory is given views of one copy.

    Args:
        tensors: one tensor several times, views, expanded ones, or None among them.

    Returns:
        The copies. Those that share memory share a version counter, too, as views do.
    """
    if separate(tensors):
        return clone(tensors)
    bases: dict[tuple[int, torch.dtype], Tensor] = {}
    out: list[Any] = []
    for t in tensors:
        if t is None or t.is_nested or t.is_quantized or not (at := address(t)):
            out.append(None if t is None else copy(t.detach()))
            continue
        if (at, t.dtype) not in bases:
            storage = t.untyped_storage()
            whole = torch.empty(0, dtype=t.dtype, device=t.device)
            whole.set_(storage, 0, (len(storage) // t.element_size(),), (1,))  # type: ignore[call-overload]
            bases[at, t.dtype] = whole.clone()
        with torch.enable_grad():  # else the view could not be written under grad mode
            view = bases[at, t.dtype].as_strided(t.shape, t.stride(), t.storage_offset())
            view = view.conj() if t.is_conj() else view
            out.append(torch._neg_view(view) if t.is_neg() else view)
    return out


def laid_out(tensors: Sequence[Tensor | None]) -> list[tuple[object, ...] | None]:
    """How tensors lie in memory: which share it, and where."""
    first: dict[int, int] = {}
    out: list[tuple[object, ...] | None] = []
    for i, t in enumerate(tensors):
        if t is None:
            out.append(None)
            continue
        group = first.setdefault(address(t) or -1 - i, i)
        strided = t.layout is torch.strided and not t.is_nested
        place = (t.storage_offset(), t.stride()) if strided else ()
        out.append((group, form(t), *place))
    return out

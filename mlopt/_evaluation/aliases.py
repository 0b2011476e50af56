"""`apart_from`: a result that shares no memory with what it was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .._containers.containers import rebuilt

__all__ = ["address", "apart_from", "is_computed"]


def is_computed(result: Any) -> bool:
    """Whether a result is a tensor that an operation has computed, as most are: nobody's memory."""
    return isinstance(result, Tensor) and result.grad_fn is not None and not result._is_view()


def apart_from(result: Any, read: Iterable[Tensor | None]) -> Any:
    """What a function returned, with copies of whatever is memory of what it read.

    That memory is written later: weights by their optimizer, copies of buffers by the next
    evaluation. A copy goes on with the graph of what it is a copy of.

    Args:
        result: a tensor, or containers of tensors and other things.
        read: what the function read.

    Returns:
        The same, and the very same if it shares no memory.
    """
    found: list[Tensor] = []
    if isinstance(result, Tensor):
        found.append(result)
    else:
        rebuilt(result, lambda held: _note(held, found))
    if not found:  # what an operation has computed
        return result
    with torch._C.DisableTorchFunction():  # who watches is not meant: nothing is read
        taken = {address(t) for t in read if t is not None} - {0}
        shared = {id(t) for t in found if address(t) in taken}
    if not shared:
        return result
    if isinstance(result, Tensor):
        return result.clone()
    return rebuilt(result, lambda held: held.clone() if id(held) in shared else held)


def address(tensor: Tensor) -> int:
    """Where the memory of a tensor begins; zero if it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse ones, and those of transformations
        return 0


def _note(held: Any, found: list[Tensor]) -> Any:
    """Note a tensor that may be a part of another one, or that very one."""
    if isinstance(held, Tensor) and (held.grad_fn is None or held._is_view()):
        found.append(held)
    return held

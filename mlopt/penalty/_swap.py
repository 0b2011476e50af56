"""Other tensors in the place of a module's own, for the time of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .._evaluation.binding import Binding
from .._evaluation.copies import copied

__all__ = ["lent_buffers", "standing_at", "tensors_of"]


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The tensors of a value that a function received, by parameter name ("" for a tensor)."""
    return {"": value} if isinstance(value, Tensor) else dict(value.named_parameters())


@contextmanager
def standing_at(value: Any, tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """What a function is to receive so that a variable stands at these tensors.

    Args:
        value: the tensor, or the module.
        tensors: by parameter name; names that are left out keep their tensors.

    Yields:
        The tensor, or the same module with the tensors swapped in.
    """
    if isinstance(value, Tensor):
        yield tensors.get("", value)
        return
    slots = Binding.of(value).parameters
    places = [(slot, key, name) for name in tensors for slot, key in slots[name]]
    before = [slot[key] for slot, key, _ in places]
    try:
        for slot, key, name in places:
            slot[key] = tensors[name]
        yield value
    finally:
        for (slot, key, _), tensor in zip(places, before, strict=True):
            slot[key] = tensor


@contextmanager
def lent_buffers(values: Iterable[Any]) -> Iterator[None]:
    """Whatever a block writes into the buffers of these modules is forgotten after it.

    The block gets copies, instead of the buffers being put back: autograd may hold them.

    Args:
        values: modules; whatever is none is left alone.

    Yields:
        Nothing.
    """
    modules = [v for v in values if isinstance(v, nn.Module)]
    slots = [slot for module in modules for slot in Binding.of(module).buffers]
    before = [slot[key] for slot, key in slots]
    try:
        for (slot, key), copy in zip(slots, copied(before), strict=True):
            slot[key] = copy
        yield
    finally:
        for (slot, key), buffer in zip(slots, before, strict=True):
            slot[key] = buffer

"""`Slots`: the parameters of a module that are rows, and the whole of each where it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .._errors import GraphError
from ..distributed.shards import Shard, gathered

__all__ = ["Slots", "reading", "reads_whole", "whole_reads"]

#: Of the process, as modules are: one engine at a time works.
_reading = False


def reading(on: bool) -> None:
    """Have modules read whole tensors from now on, or rows."""
    global _reading
    _reading = on


@contextmanager
def whole_reads(on: bool = True) -> Iterator[None]:
    """In a block, modules read whole tensors: a function of the user's runs, or a part of it."""
    before = _reading
    reading(on)
    try:
        yield
    finally:
        reading(before)


def reads_whole(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A node's function, run where modules read whole tensors.

    Args:
        function: it.
        name: of the node.

    Returns:
        A function that raises a `GraphError` where that one takes gradients by torch.func.
    """

    def run(*arguments: Any) -> Any:
        try:
            with whole_reads():
                return function(*arguments)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            raise GraphError(
                f"{name}: takes gradients by torch.func, which cannot be where a variable of the "
                "engine is sharded: torch does not let it beside what gathers parameters again. "
                "Take them by torch.autograd.grad, or do not shard."
            ) from error

    return run


class Slots(dict[str, Any]):
    """What stands in the place of a module's `_parameters` while an engine works.

    It holds rows. Who reads it in the course of an evaluation gets the whole tensor, which is
    gathered for him, and has its place in the graph of the rows.

    Args:
        held: parameters by name, or None.
        shards: of those that are rows, how they lie.
    """

    def __init__(self, held: Mapping[str, Any], shards: Mapping[str, Shard]) -> None:
        super().__init__(held)
        self.shards = shards

    def __getitem__(self, key: str) -> Any:
        held: Any = super().__getitem__(key)
        shard = self.shards.get(key) if _reading else None
        return gathered(held, shard) if shard is not None and isinstance(held, Tensor) else held

    def __setitem__(self, key: str, value: Any) -> None:
        if _reading and key in self.shards:
            raise GraphError(
                f"The parameter {key} of a sharded module is replaced in a function, by "
                "torch.func.functional_call, say, which would take the whole tensor for its rows. "
                "Call the module as it is given; or do not shard it."
            )
        super().__setitem__(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def values(self) -> Any:
        return [self[key] for key in self] if _reading else super().values()

    def items(self) -> Any:
        return ((key, self[key]) for key in self) if _reading else super().items()

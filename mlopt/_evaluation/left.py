"""`Left`: numbers past its arguments that each evaluation of a function writes, and the next reads.

A teacher that follows a student, a queue, a running mean: the next evaluation is of another
function. Values tell nothing of it where the teacher starts as the student's copy, or the mean with
the first of its numbers. So writes are seen where they are made, and what one evaluation has left
is displaced to see whether the value of the next depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._errors import exhausted
from .aliases import address
from .copies import overlaps
from .layouts import copy_into, plain, same
from .reads import eager
from .spots import Spot, spots
from .surroundings import Surroundings

__all__ = ["Left", "put_back_after"]

_SMALL = 2**16  # numbers of a tensor that is copied before anybody is seen to write it
_NUMBERS = (Tensor, float, np.ndarray)
_ENTRY = re.compile(r"(.*)\[\d+\]")
_FEW = 8  # tensors that are displaced one by one, to tell which is read


@dataclass(eq=False)
class _Held:
    """A tensor that a function reaches.

    Attributes:
        name: the way to it.
        tensor: itself.
        memory: an alias, which stays where the tensor is given other memory.
        values: a copy; None as long as nobody is seen to write a large one.
        version: before the last evaluation.
        written: whether an operation has written it since.
    """

    name: str
    tensor: Tensor
    memory: Tensor
    values: Tensor | None
    version: int
    written: bool = False

    def keep(self) -> Tensor:
        """Its values, before they are written."""
        if self.values is None:
            self.values = self.memory.clone()
        return self.values

    def changed(self, now: Any) -> bool:
        """Whether it has been written, or another tensor is in its place now."""
        if self.written or _version(self.tensor) != self.version:
            return True
        if (isinstance(now, Tensor) and now is not self.tensor) or self._moved():
            return True
        return self.values is not None and not same(self.memory, self.values)

    def put_back(self) -> None:
        """Have its memory and values as they were."""
        if self.values is not None and not same(self.memory, self.values):
            copy_into(self.memory, self.values)
        if self._moved():
            self.tensor.data = self.memory

    def _moved(self) -> bool:
        return address(self.tensor) != address(self.memory)


class _Writes(TorchDispatchMode):
    """Keeps the values of tensors when an operation is about to write them, by whatever view.

    Args:
        held: the tensors.
    """

    def __init__(self, held: Iterable[_Held]) -> None:
        super().__init__()
        self._places: dict[int, list[_Held]] = {}
        for one in held:
            self._places.setdefault(address(one.memory), []).append(one)
        self._places.pop(0, None)  # those that have no memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        schema = getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable and self._places:
            for i, argument in enumerate(schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[i] if i < len(args) else kwargs.get(argument.name)
                    for tensor in (t for t in tree_leaves(given) if isinstance(t, Tensor)):
                        self._note(tensor)
        return func(*args, **kwargs)

    def _note(self, tensor: Tensor) -> None:
        for held in self._places.get(address(tensor), ()):
            held.keep()
            held.written = True


class Left:
    """The tensors, arrays and numbers around a function.

    Args:
        function: the function.
        modules: what it is given, by name; their parameters and buffers are left out.
        own: ids of the variables' own tensors.
        apart: objects that are let alone.

    Attributes:
        watch: to be entered around the first evaluation.
    """

    def __init__(
        self,
        function: Any,
        modules: Iterable[tuple[str, nn.Module]],
        own: Collection[int],
        apart: Iterable[Any],
    ) -> None:
        self._reached, self._own = (function, list(modules)), own
        self._around = Surroundings(*self._reached, apart)
        self._then = self._now()
        self._held = self._look(self._then)
        self.watch = _watch(self._held)
        self._leaves = False  # whether each evaluation writes any of it

    def read(
        self, result: Any, evaluate: Callable[[], Any], change: Callable[[Any, Any], float]
    ) -> list[str]:
        """What each evaluation writes and the next one reads; all is put back then.

        Args:
            result: of the first evaluation.
            evaluate: gives others at the same point.
            change: how much two differ.

        Returns:
            The names.
        """
        then = self._now()
        first = self._changed(self._then, self._held, then)
        if not first:
            return []
        held = self._look(then)
        with eager(), _watch(held):
            evaluate()
        again = self._changed(then, held, self._now())
        each = [name for name in first if name in again or _in_one(name, again)]
        if not each:  # what is made once, to begin with, stays
            return []
        self._leaves = True
        self.put_back()
        if change(result, evaluate()):  # because of something else
            return []
        usual = evaluate()  # which reads what that one has left

        def depends(on: list[str]) -> bool:
            self.put_back()
            evaluate()
            back = self._displace(on)
            try:
                return change(usual, evaluate()) > 0
            except Exception as error:  # of whatever the function makes of these values
                if exhausted(error):
                    raise
                return True
            finally:
                back()

        found: list[str] = []
        try:
            if depends(each):
                found = each
                if 1 < len(each) <= _FEW:
                    found = [name for name in each if depends([name])] or each
        finally:
            self.put_back()
        if not found:  # the next evaluations go on from the first one
            self._leaves = False
            evaluate()
        return found

    def put_back(self) -> None:
        """Have all as it was before the first evaluation, if each leaves something behind."""
        if self._leaves:
            self._around.put_back()
            for held in self._held:
                held.put_back()

    def _now(self) -> dict[str, Spot]:
        """What is there."""
        return {s.name: s for s in spots(*self._reached, _NUMBERS)}

    def _look(self, now: dict[str, Spot]) -> list[_Held]:
        """The tensors in it."""
        found = ((name, s.value) for name, s in now.items())
        return [_hold(name, t) for name, t in found if id(t) not in self._own and _is_kept(t)]

    def _changed(self, then: dict[str, Spot], held: list[_Held], now: dict[str, Spot]) -> list[str]:
        """The names of what has been written since, or is new there."""
        values = {name: spot.value for name, spot in now.items()}
        written = {h.name for h in held if h.changed(values.get(h.name))}
        return [
            name for name, value in values.items()
            if name in written or (
                _is_movable(value) and (name not in then or then[name].value is not value)
            )
        ]  # fmt: skip

    def _displace(self, names: list[str]) -> Callable[[], None]:
        """Put other numbers there; what puts those back that are in memory of somebody's."""
        undo: list[Callable[[], None]] = []
        now = self._now()
        for spot in (now[name] for name in names if name in now):
            value = spot.value
            if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
                if spot.put is not None and type(value) is Tensor:
                    spot.put(spot.key, _displaced(value.detach()))
                elif _is_kept(value):
                    before = value.detach().clone()
                    undo.append(partial(copy_into, value.detach(), before))
                    copy_into(value.detach(), _displaced(before))
            elif isinstance(value, float) and spot.put is not None:
                spot.put(spot.key, 0.75 * value if value else 0.5)
            elif isinstance(value, np.ndarray) and value.dtype.kind in "fc":
                undo.append(partial(np.copyto, value, value.copy()))
                np.copyto(value, np.where(value == 0, 0.5, 0.75 * value))

        def back() -> None:
            for put_back in undo:
                put_back()

        return back


@contextmanager
def put_back_after() -> Iterator[list[Left]]:
    """A block whose evaluations leave nothing: it gives a list for what is around functions."""
    around: list[Left] = []
    try:
        yield around
    finally:
        for left in reversed(around):
            left.put_back()


def _in_one(name: str, others: Collection[str]) -> bool:
    """Whether it is in a list, or a queue, of which another entry is among these."""
    entry = _ENTRY.fullmatch(name)
    return entry is not None and any(
        (other := _ENTRY.fullmatch(o)) is not None and other[1] == entry[1] for o in others
    )


def _is_movable(value: Any) -> bool:
    """Whether it may be what an evaluation hands on; what has a graph is looked at elsewhere."""
    return not isinstance(value, Tensor) or _is_kept(value)


def _watch(held: list[_Held]) -> AbstractContextManager[Any]:
    return _Writes(held) if held else nullcontext()  # as it takes as long as an evaluation


def _hold(name: str, tensor: Tensor) -> _Held:
    # Others than parameters may be written by NumPy, or by kernels that do not say what they write.
    small = tensor.numel() <= _SMALL and not isinstance(tensor, nn.Parameter)
    memory = tensor.data
    return _Held(name, tensor, memory, memory.clone() if small else None, _version(tensor))


def _is_kept(value: Any) -> bool:
    if type(value) not in (Tensor, nn.Parameter) or value.grad_fn is not None or value.is_meta:
        return False
    return plain(value) and not overlaps(value)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _displaced(values: Tensor) -> Tensor:
    """Others within the same range, each displaced by a part of its own."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand(values.shape, generator=generator, dtype=torch.float64)
    factors = (0.5 + 0.5 * factors).to(values.device, values.dtype)
    return torch.where(values == 0, factors, values * factors)

"""`Left`: tensors past its arguments that each evaluation of a function writes, and the next reads.

A teacher that follows a student, a queue, a running mean: the next evaluation is of another
function. Values tell nothing of it where the teacher starts as the student's copy. So writes are
seen where they are made, and what is written is displaced to see whether the value depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._errors import exhausted
from .aliases import address
from .copies import overlaps
from .layouts import copy_into, plain, same
from .reads import eager
from .spots import TENSORS, spots
from .surroundings import Surroundings

__all__ = ["Left", "put_back_after"]

_SMALL = 2**16  # numbers of a tensor that is copied before anybody is seen to write it
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
    """The tensors around a function.

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
        self._held = self._look()
        self.watch = _watch(self._held)
        self._written: list[_Held] = []  # by the first evaluation, if each writes any of it

    def read(
        self, result: Any, evaluate: Callable[[], Any], change: Callable[[Any, Any], float]
    ) -> list[str]:
        """What each evaluation writes and the next one reads; all is put back then.

        Args:
            result: of the first evaluation.
            evaluate: gives others at the same point.
            change: how much two differ.

        Returns:
            The names of the tensors.
        """
        first = self._changed(self._held)
        if not first:
            return []
        held = self._look()
        with eager(), _watch(held):
            evaluate()
        again = {h.name for h in self._changed(held)}
        each = [h for h in first if h.name in again]
        if not each:  # what is made once, to begin with, stays
            return []
        self._written = first
        self.put_back()
        once = evaluate()
        if change(result, once):  # because of something else
            return []

        def depends(on: list[_Held]) -> bool:
            self.put_back()
            for one in on:
                one.memory.copy_(_displaced(one.keep()))
            try:
                return change(once, evaluate()) > 0
            except Exception as error:  # of whatever the function makes of these values
                if exhausted(error):
                    raise
                return True

        found = [h for h in each if h.memory.is_floating_point() or h.memory.is_complex()]
        try:
            if not (found and depends(found)):
                return []
            if 1 < len(found) <= _FEW:
                found = [h for h in found if depends([h])] or found
        finally:
            self.put_back()
        return [h.name for h in found]

    def put_back(self) -> None:
        """Have all as it was before the first evaluation, if each leaves something behind."""
        if self._written:
            self._around.put_back()
            for held in self._written:
                held.put_back()

    def _now(self) -> dict[str, Any]:
        return {s.name: s.value for s in spots(*self._reached, TENSORS)}

    def _look(self) -> list[_Held]:
        """What is there."""
        now = self._now().items()
        return [_hold(name, t) for name, t in now if id(t) not in self._own and _is_kept(t)]

    def _changed(self, held: list[_Held]) -> list[_Held]:
        now = self._now() if held else {}
        return [h for h in held if h.changed(now.get(h.name))]


@contextmanager
def put_back_after() -> Iterator[list[Left]]:
    """A block whose evaluations leave nothing: it gives a list for what is around functions."""
    around: list[Left] = []
    try:
        yield around
    finally:
        for left in reversed(around):
            left.put_back()


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

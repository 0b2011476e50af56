"""`spots`: what a function reaches past its arguments, value by value."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from .._containers.homes import home
from .surroundings import around

__all__ = ["TENSORS", "VALUES", "Spot", "spots"]

VALUES = (type(None), bool, int, float, complex, str, bytes, np.generic, np.ndarray, Tensor)
TENSORS = (Tensor,)
_FUNCTIONS = (FunctionType, MethodType, partial)
_CONTAINERS = (dict, list, deque, tuple, set)
_CLOSED = ("torch", "mlopt", "numpy")  # objects of these packages are let alone, but for modules
_DEPTH = 2  # of objects in objects
_MANY = 64  # of what is in a container is not looked into
_OWN = frozenset(vars(nn.Module()))


class Spot(NamedTuple):
    """One value that a function reaches.

    Attributes:
        name: the way to it.
        value: a tensor, an array, a number or a text; of a container, how much is in it.
        put: (key, value) -> puts another in its place; None if that cannot be done.
        key: of its place.
        of_module: whether a module keeps it, as an attribute or, if nobody swaps those, a buffer or
            parameter.
    """

    name: str
    value: Any
    put: Callable[[Any, Any], Any] | None
    key: Any
    of_module: bool


def spots(
    function: Any, modules: Iterable[tuple[str, nn.Module]], kinds: tuple[type, ...] = VALUES
) -> Iterator[Spot]:
    """Values in attributes, containers, and under the names that a function's code uses.

    Args:
        function: the function.
        modules: what it is given, by name; their parameters and buffers are left out.
        kinds: of the values that are meant; a walk that gives few takes less.

    Yields:
        Them, each under one name; the same names again as long as nothing moves.
    """
    walk = _Walk(kinds)
    for name, module in modules:
        yield from walk.module(name, module, others=False)
    yield from walk.function(function)


class _Walk:
    """A walk that comes to each thing once.

    Args:
        kinds: of the values that are given.
    """

    def __init__(self, kinds: tuple[type, ...]) -> None:
        self._kinds, self._counts = kinds, int in kinds
        self._seen: set[int] = set()

    def function(self, function: Any) -> Iterator[Spot]:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        home = getattr(function, "__module__", None) or ""
        for name, value, write in around(function):
            if isinstance(value, _FUNCTIONS):
                whose = home if isinstance(value, partial) else getattr(value, "__module__", home)
                if home.startswith("mlopt.") or whose == home:  # not a library's
                    yield from self.function(value)
            else:
                put = _written if write is not None else None
                yield from self.inside(name, value, put, write, 0, False)

    def inside(
        self, name: str, held: Any, put: Any, key: Any, depth: int, of_module: bool
    ) -> Iterator[Spot]:
        kind = type(held)  # what an object says of its class may be another's, which it loads then
        if issubclass(kind, VALUES):
            if issubclass(kind, self._kinds):
                yield Spot(name, held, put, key, of_module)
        elif issubclass(kind, (type, ModuleType)) or id(held) in self._seen:
            return
        elif issubclass(kind, nn.Module):
            yield from self.module(name, held, others=True)
        elif issubclass(kind, _CONTAINERS):
            yield from self._container(name, held, depth, of_module)
        elif depth < _DEPTH and home(kind).partition(".")[0] not in _CLOSED:
            self._seen.add(id(held))
            try:
                own = held.__dict__
            except Exception:  # it has none, or a class of the user's has its reasons
                return
            if type(own) is dict:
                for key, value in list(own.items()):
                    at = (own.__setitem__, key, depth + 1, of_module)
                    yield from self.inside(f"{name}.{key}", value, *at)

    def _container(self, name: str, held: Any, depth: int, of_module: bool) -> Iterator[Spot]:
        self._seen.add(id(held))
        base = next(b for b in _CONTAINERS if issubclass(type(held), b))
        if self._counts:
            yield Spot(name, base.__len__(held), None, None, of_module)
        if depth == _DEPTH or base.__len__(held) > _MANY or base is set:
            return
        inside = list(dict.items(held) if base is dict else enumerate(base.__iter__(held)))
        put = None if base is tuple else partial(base.__setitem__, held)  # type: ignore[attr-defined]
        for key, value in inside:
            yield from self.inside(f"{name}[{key!r}]", value, put, key, depth + 1, of_module)

    def module(self, name: str, module: nn.Module, others: bool) -> Iterator[Spot]:
        for path, part in module.named_modules():
            if id(part) in self._seen:
                continue
            self._seen.add(id(part))
            where, own = f"{name}.{path}" if path else name, part.__dict__
            # torch's own layers keep no count, but may be given tensors, as by pruning.
            torchs = type(part).__module__.partition(".")[0] == "torch"
            for key, value in list(own.items()):
                if key not in _OWN and not (torchs and type(value) is not Tensor):
                    at = (own.__setitem__, key, 0, True)
                    yield from self.inside(f"{where}.{key}", value, *at)
            for key, value in (*part._buffers.items(), *part._parameters.items()) if others else ():
                if isinstance(value, self._kinds):
                    yield Spot(f"{where}.{key}", value, None, None, True)


def _written(write: Callable[[Any], Any], value: Any) -> None:
    write(value)

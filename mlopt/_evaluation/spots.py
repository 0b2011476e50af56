"""`spots`: what a function reaches past its arguments, value by value."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from .._graph.homes import home
from .surroundings import around

__all__ = ["Spot", "spots"]

_VALUES = (type(None), bool, int, float, complex, str, bytes, np.generic, np.ndarray, Tensor)
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
        write: puts another in its place, if that can be done.
        of_module: whether a module keeps it, as an attribute or, if nobody swaps those, a buffer or
            parameter.
    """

    name: str
    value: Any
    write: Callable[[Any], Any] | None
    of_module: bool


def spots(function: Any, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Spot]:
    """Values in attributes, containers, and under the names that a function's code uses.

    Args:
        function: the function.
        modules: what it is given, by name; their parameters and buffers are left out.

    Yields:
        Them, each under one name; the same names again as long as nothing moves.
    """
    seen: set[int] = set()
    for name, module in modules:
        yield from _of_module(name, module, seen, others=False)
    yield from _of_function(function, seen)


def _of_function(function: Any, seen: set[int]) -> Iterator[Spot]:
    if id(function) in seen:
        return
    seen.add(id(function))
    home = getattr(function, "__module__", None) or ""
    for name, value, write in around(function):
        if isinstance(value, _FUNCTIONS):
            whose = home if isinstance(value, partial) else getattr(value, "__module__", home)
            if home.startswith("mlopt.") or whose == home:  # not a library's
                yield from _of_function(value, seen)
        else:
            yield from _inside(name, value, write, seen, 0, False)


def _inside(
    name: str, held: Any, write: Any, seen: set[int], depth: int, of_module: bool
) -> Iterator[Spot]:
    kind = type(held)  # what an object says of its class may be another's, which it loads then
    if issubclass(kind, _VALUES):
        yield Spot(name, held, write, of_module)
    elif issubclass(kind, (type, ModuleType)) or id(held) in seen:
        return
    elif issubclass(kind, nn.Module):
        yield from _of_module(name, held, seen, others=True)
    elif issubclass(kind, _CONTAINERS):
        seen.add(id(held))
        base = next(b for b in _CONTAINERS if issubclass(kind, b))
        yield Spot(name, base.__len__(held), None, of_module)
        if depth == _DEPTH or base.__len__(held) > _MANY or base is set:
            return
        inside = list(dict.items(held) if base is dict else enumerate(base.__iter__(held)))
        for key, value in inside:
            put = None if base is tuple else partial(base.__setitem__, held, key)  # type: ignore[attr-defined]
            yield from _inside(f"{name}[{key!r}]", value, put, seen, depth + 1, of_module)
    elif depth < _DEPTH and home(kind).partition(".")[0] not in _CLOSED:
        seen.add(id(held))
        try:
            own = held.__dict__
        except Exception:  # it has none, or a class of the user's has its reasons
            return
        if type(own) is dict:
            for key, value in list(own.items()):
                put = partial(own.__setitem__, key)
                yield from _inside(f"{name}.{key}", value, put, seen, depth + 1, of_module)


def _of_module(name: str, module: nn.Module, seen: set[int], others: bool) -> Iterator[Spot]:
    for path, part in module.named_modules():
        if id(part) in seen:
            continue
        seen.add(id(part))
        where, own = f"{name}.{path}" if path else name, part.__dict__
        # torch's own layers keep no count, but may be given tensors, as by pruning.
        torchs = type(part).__module__.partition(".")[0] == "torch"
        for key, value in list(own.items()):
            if key not in _OWN and not (torchs and type(value) is not Tensor):
                put = partial(own.__setitem__, key)
                yield from _inside(f"{where}.{key}", value, put, seen, 0, True)
        for key, value in (*part._buffers.items(), *part._parameters.items()) if others else ():
            yield Spot(f"{where}.{key}", value, None, True)

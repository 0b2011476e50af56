"""`Surroundings`: what functions reach past their arguments, and whether it has changed."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._containers.contents import contents, put
from .._containers.homes import home
from .layouts import plain

__all__ = ["Place", "Surroundings", "around"]

_PLAIN = (type(None), bool, int, float, str)
_ATOMS = frozenset(_PLAIN)
_NONE: frozenset[str] = frozenset()
_BITS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
_CONTAINERS = (list, deque, dict, set, bytearray)
_TENSORS = frozenset({Tensor, nn.Parameter})
_DEPTH = 2  # of objects in objects
_MANY = 64  # of what is in a container is not looked into
_SMALL = 2**16  # numbers of a tensor that is copied
_TORCHS = frozenset(vars(nn.Module())) - {"training"}
#: Objects of these packages' classes, but for modules, are let alone.
_CLOSED = ("torch", "mlopt", "numpy")


class Place(NamedTuple):
    """A name that a function's code uses, what it stands for, and how to let it stand for else."""

    name: str
    value: Any
    write: Callable[[Any], None] | None


def around(function: Any) -> Iterator[Place]:
    """What a function reaches by the names in its code: cells, globals, defaults, its object.

    Args:
        function: a function, a bound method, or another callable.

    Yields:
        The places; those of functions that it calls are not among them.
    """
    if isinstance(function, types.MethodType):
        yield Place("self", function.__self__, None)
        yield from around(function.__func__)
    elif isinstance(function, partial):
        yield Place("function", function.func, None)
        for name, value in (*enumerate(function.args), *function.keywords.items()):
            yield Place(str(name), value, None)
    elif isinstance(function, types.FunctionType):
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                yield Place(name, cell.cell_contents, partial(setattr, cell, "cell_contents"))
            except ValueError:  # it is empty
                continue
        known = function.__globals__
        for name in dict.fromkeys(_names(code)):
            if name in known:
                yield Place(name, known[name], partial(known.__setitem__, name))
        for i, value in enumerate(function.__defaults__ or ()):
            yield Place(code.co_varnames[code.co_argcount - len(function.__defaults__) + i],  # type: ignore[arg-type]
                        value, None)  # fmt: skip
        for name, value in (function.__kwdefaults__ or {}).items():
            yield Place(name, value, None)
    elif callable(function):
        yield Place(type(function).__name__, function, None)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:  # functions inside of it
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


class Surroundings:
    """Names, attributes, containers and generators that a function can reach, as they are now.

    Arrays and large tensors are not copied. Of tensors the version counter is looked at, which does
    not see what is written through `.data` or NumPy.

    Args:
        function: the function.
        modules: what it is given, by name; their parameters and buffers are let alone.
        apart: objects that are let alone.
    """

    def __init__(
        self,
        function: Any,
        modules: Iterable[tuple[str, nn.Module]] = (),
        apart: Iterable[Any] = (),
    ) -> None:
        #: a name, what is there now, what was there, and how to put it back
        self._held: list[tuple[str, Callable[[], Any], Any, Callable[[Any], None] | None]] = []
        #: the name of an object, its attributes now, which of them are left out, and the others
        self._open: list[tuple[str, dict[str, Any], frozenset[str], dict[str, Any]]] = []
        self._seen: set[int] = set(map(id, apart))
        for name, module in modules:
            self._module(name, module, 0)
        self._function(function)

    def changed(self) -> list[str]:
        """The names of what has changed since."""
        names = [name for name, now, then, _ in self._held if not _same(now(), then)]
        for name, own, left_out, then in self._open:
            names += [f"{name}.{key}" for key in _differ(own, left_out, then)]
        return list(dict.fromkeys(names))

    def put_back(self) -> None:
        """Have it as it was, but for arrays and large tensors."""
        for _, now, then, write in self._held:
            if write is not None and not _same(now(), then):
                write(then)
        for _, own, left_out, then in self._open:
            for key in _differ(own, left_out, then):
                if key in then:
                    own[key] = then[key]
                else:
                    del own[key]

    def _keep(self, name: str, now: Callable[[], Any], write: Any) -> None:
        self._held.append((name, now, now(), write))

    def _function(self, function: Any) -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        module = getattr(function, "__module__", None)
        for name, value, write in around(function):
            if issubclass(type(value), types.FunctionType | types.MethodType | partial):
                if getattr(value, "__module__", module) == module:
                    self._function(value)
                continue
            if write is not None:
                self._keep(name, partial(_find, function, name), write)
            self._object(name, value, 0)

    def _object(self, name: str, held: Any, depth: int) -> None:
        kind = type(held)  # what an object says of its class may be another's, which it loads then
        if issubclass(kind, (*_PLAIN, type, types.ModuleType)) or id(held) in self._seen:
            return
        self._seen.add(id(held))
        if issubclass(kind, _BITS):
            self._keep(name, partial(_bits, held), partial(_set_bits, held))
        elif issubclass(kind, _CONTAINERS):
            self._keep(name, partial(_content, held), partial(put, held))
            inside = _content(held)
            if depth < _DEPTH and len(inside) <= _MANY:
                named = inside.items() if issubclass(kind, dict) else enumerate(inside)
                for key, value in named:
                    self._object(f"{name}[{key!r}]", value, depth + 1)
        elif issubclass(kind, Tensor):
            if not held.is_inference():
                small = kind in _TENSORS and plain(held) and held.numel() <= _SMALL
                write = partial(_fill, held, held.detach().clone()) if small else None
                self._keep(name, partial(getattr, held, "_version"), write)
        elif issubclass(kind, nn.Module):
            self._module(name, held, depth)
            for path, tensor in (*held.named_parameters(), *held.named_buffers()):
                self._object(f"{name}.{path}", tensor, depth)
        elif depth < _DEPTH and _is_open(held):
            self._attributes(name, held, depth)

    def _module(self, name: str, held: nn.Module, depth: int) -> None:
        self._seen.update(map(id, held.modules()))
        for path, part in held.named_modules():
            self._attributes(f"{name}.{path}" if path else name, part, depth)

    def _attributes(self, name: str, held: Any, depth: int) -> None:
        """Those of an object; of a module all but what torch keeps there, and its mode."""
        own = held.__dict__
        left_out = _TORCHS if issubclass(type(held), nn.Module) else _NONE
        then = {key: value for key, value in own.items() if key not in left_out}
        self._open.append((name, own, left_out, then))
        for key, value in then.items():
            if type(value) not in _ATOMS:  # of which there are many
                self._object(f"{name}.{key}", value, depth + 1)


def _is_open(held: Any) -> bool:
    """Whether an object's attributes are looked at."""
    if home(type(held)).split(".")[0] in _CLOSED:
        return False
    try:
        return type(held.__dict__) is dict
    except Exception:  # it has none, or a class of the user's has its reasons
        return False


def _find(function: Any, name: str) -> Any:
    return next((p.value for p in around(function) if p.name == name), None)


def _differ(own: dict[str, Any], left_out: frozenset[str], then: dict[str, Any]) -> list[str]:
    """Which attributes an object has otherwise than it had, or did not have."""
    lost = [key for key in then if key not in own]
    now = [(key, value) for key, value in own.items() if key not in left_out]
    return lost + [k for k, value in now if k not in then or not _same(value, then[k])]


def _content(held: Any) -> Any:
    found = contents(held)
    return list(found) if isinstance(found, set) else found


def _fill(held: Tensor, values: Tensor, _: int) -> None:
    if held.shape == values.shape:
        held.data.copy_(values)


def _bits(held: Any) -> Any:
    """Where a generator of random numbers stands."""
    if isinstance(held, torch.Generator):
        return held.get_state().numpy().tobytes()
    if isinstance(held, random.Random):
        return held.getstate()
    return held.get_state() if isinstance(held, np.random.RandomState) else held.bit_generator.state


def _set_bits(held: Any, state: Any) -> None:
    if isinstance(held, random.Random):
        held.setstate(state)
    elif isinstance(held, torch.Generator):
        held.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(held, np.random.RandomState):
        held.set_state(state)
    else:
        held.bit_generator.state = state


def _same(a: Any, b: Any) -> bool:
    """The same objects, or equal ones of those that cannot change."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if issubclass(kind, np.ndarray):
        return a.tobytes() == b.tobytes()
    if issubclass(kind, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if issubclass(kind, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return issubclass(kind, (*_PLAIN, bytes)) and bool(a == b or (a != a and b != b))

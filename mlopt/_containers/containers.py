"""The containers of a batch: `opened`, as they are, and `rebuilt`, with what is in them changed."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import exhausted
from .contents import contents, entries, has_slots, put, slots
from .homes import home
from .iterators import moves_on

__all__ = ["Opened", "opened", "own_copy", "rebuilt", "ways"]

#: What holds others, and can be written to.
_WRITTEN = (dict, list, deque, set)
_CONTAINERS = (*_WRITTEN, tuple, frozenset)
#: What is met most, and holds nothing.
_PLAIN = frozenset({Tensor, str, int, float, bool, type(None)})


@dataclass(slots=True)
class Opened:
    """What a batch leads to.

    Attributes:
        tensors: each once.
        arrays: of NumPy, likewise.
        containers: dictionaries, those of attributes among them, lists, deques, sets, and objects
            that keep attributes in slots; with copies of what they hold.
        iterators: those that can be gone through once only.
    """

    tensors: list[Tensor] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    containers: list[tuple[Any, Any]] = field(default_factory=list)
    iterators: list[Any] = field(default_factory=list)


def opened(held: Any) -> Opened:
    """Look into the containers of a batch, and into the objects in it, in each other.

    Args:
        held: of any type.

    Returns:
        What was found. `put` of `contents.py` puts back what an evaluation does to a container.
    """
    found = Opened()
    seen: dict[int, Any] = {}
    waiting = [held]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if id(one) in seen or (kind in _PLAIN and kind is not Tensor):
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            found.tensors.append(one)
        elif isinstance(one, np.ndarray):
            found.arrays.append(one)
        else:
            places = _places(one)
            found.containers += [(place, contents(place)) for place in places]
            inside = _inside(one, places)
            if not inside and moves_on(kind):
                found.iterators.append(one)
            waiting += reversed(inside)
    return found


def ways(held: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What `opened` goes through, with the way to it.

    Args:
        held: of any type.
        name: what ways begin with.

    Yields:
        The way to a thing, as Python writes it, and the thing.
    """
    seen: dict[int, Any] = {}
    waiting = [(name, held)]
    while waiting:
        way, one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        yield way, one
        if not isinstance(one, Tensor | np.ndarray):
            waiting += [(way + step, value) for step, value in reversed(_steps(one))]


def _steps(held: Any) -> list[tuple[str, Any]]:
    """What is in something, and how it is written that one goes there."""
    proxy = type(held) is types.MappingProxyType
    found = [("" if proxy else f"[{i}]", value) for i, value in enumerate(_inside(held, []))]
    for place in _places(held):
        if place is held and isinstance(held, dict):
            found += [(f"[{key!r}]", value) for key, value in entries(held)]
        elif place is held and isinstance(held, _WRITTEN):
            found += [(f"[{i}]", value) for i, (_, value) in enumerate(entries(held))]
        else:
            own = slots(held) if place is held else place
            found += [(f".{key}", value) for key, value in own.items()]
    return found


def _places(held: Any) -> list[Any]:
    """Where something keeps what it holds and may be written to."""
    places = [held] if isinstance(held, _WRITTEN) else []
    if places or isinstance(held, tuple) or _is_object(held):
        own = getattr(held, "__dict__", None)
        places += [own] if own else []
        if not isinstance(held, _CONTAINERS) and has_slots(type(held)):
            places.append(held)
    return places


def _inside(held: Any, places: list[Any]) -> list[Any]:
    """What is in something: itself a tuple, or in the places where it keeps things."""
    found = [*held] if isinstance(held, tuple | frozenset) else []
    if type(held) is types.MappingProxyType:
        found = [dict(held)]
    for place in places:
        if isinstance(place, _WRITTEN):
            found += [value for _, value in entries(place)]
        else:
            found += slots(place).values()
    return found


def rebuilt(
    held: Any,
    leaf: Callable[[Any], Any],
    whole: Callable[[Any], bool] = lambda held: False,
) -> Any:
    """The same containers anew, of whatever type, which they keep.

    An object is anew only if something in it is another tensor or array: a mark that is compared by
    `is` stays itself. What has something to do when it is given up (`__del__`) is not doubled.

    Args:
        held: mappings, lists, tuples, sets, dataclasses and objects with attributes, in each other;
            or a leaf. Modules, functions, iterators, and objects of torch and NumPy are leaves.
        leaf: gives what takes the place of anything else.
        whole: whether something is a leaf though it is a container.

    Returns:
        What holds the same; nothing that is done to its containers is done to those of `held`.
    """
    try:
        return _Building(leaf, whole)(held)
    except RecursionError:  # chains that are longer than Python can follow stay as they are
        return held


class _Building:
    """One call of `rebuilt`; what is met again, and in circles, is built once."""

    def __init__(self, leaf: Callable[[Any], Any], whole: Callable[[Any], bool]) -> None:
        self._leaf, self._whole = leaf, whole
        self._made: dict[int, tuple[Any, Any]] = {}  # with what it was made of, so that ids last

    def __call__(self, held: Any) -> Any:
        kind = type(held)
        if kind in _PLAIN or self._whole(held):
            return self._leaf(held)
        if kind is list:
            return self._filled(held, [])
        if kind is dict:
            return self._filled(held, {})
        if isinstance(held, tuple):
            return self._tuple(held)
        if isinstance(held, frozenset):
            return frozenset.__new__(kind, map(self, held))
        if isinstance(held, _WRITTEN):
            return self._filled(held, _empty(held))
        if kind is types.MappingProxyType:
            return types.MappingProxyType(self(dict(held)))
        alone = hasattr(kind, "__del__") or not _is_object(held)
        if alone or not _leads_to_numbers(held):
            return self._leaf(held)
        return self._object(held)

    def _filled(self, held: Any, other: Any) -> Any:
        """An empty container, with what another one holds."""
        if (known := self._made.get(id(held))) is not None:
            return known[1]
        self._made[id(held)] = held, other
        if isinstance(held, dict):
            put(other, {self._key(k): self(v) for k, v in entries(held)})
        else:
            inside = [self(value) for _, value in entries(held)]
            put(other, set(inside) if isinstance(held, set) else inside)
        self._attributes(held, other)
        return other

    def _key(self, key: Any) -> Any:
        """Numbers and words are themselves; objects are those that are met elsewhere."""
        return self(key) if type(key) not in _PLAIN and _is_object(key) else key

    def _attributes(self, held: Any, other: Any) -> None:
        own = getattr(held, "__dict__", None)
        if own:
            vars(other).update({name: self(value) for name, value in own.items()})

    def _tuple(self, held: tuple[Any, ...]) -> tuple[Any, ...]:
        """A tuple of the same type, named or not, past a constructor of its own."""
        kind = type(held)
        if kind is torch.Size:
            return held
        values = [self(value) for value in held]
        if kind is tuple:
            return tuple(values)
        if hasattr(kind, "n_fields"):  # those that C makes, such as torch.return_types
            return kind(values)
        other = tuple.__new__(kind, values)
        self._attributes(held, other)
        return other

    def _object(self, held: Any) -> Any:
        """An object of the same type, with its attributes anew."""
        if (known := self._made.get(id(held))) is not None:
            return known[1]
        kind, other = type(held), _made_like(held)
        self._made[id(held)] = self._made[id(other)] = held, other
        if other is held or _copies_itself(kind):  # its parts may know one another
            for value in [*vars(other).values()] if hasattr(other, "__dict__") else ():
                self(value)  # looked at, and left
            return other
        self._attributes(held, other)
        if has_slots(kind):
            put(other, {name: self(value) for name, value in slots(held).items()})
        return other


def _made_like(held: Any) -> Any:
    """Another object of the same class; the same one where that cannot be made."""
    kind = type(held)
    try:
        if not _copies_itself(kind):
            return object.__new__(kind)  # past its constructor and its ways of setting
    except TypeError:  # of what C makes
        pass
    try:
        return copy.copy(held)
    except Exception as error:  # it has its reasons
        if exhausted(error):
            raise
        return held


@functools.lru_cache(256)
def _copies_itself(kind: type) -> bool:
    """Whether a class of the user's, or of a base of it, says how it is copied."""
    said = (k for k in kind.__mro__ if "__copy__" in vars(k))
    return home(next(said, object)).split(".")[0] not in ("builtins", "collections")


def _empty(held: Any) -> Any:
    """An empty container of the same class, past a constructor of its own."""
    kind: Any = type(held)
    other = kind.__new__(kind)
    if isinstance(held, OrderedDict):
        OrderedDict.__init__(other)
    elif isinstance(held, defaultdict):
        defaultdict.__init__(other, held.default_factory)
    elif isinstance(held, deque):
        deque.__init__(other, (), held.maxlen)
    return other


#: Packages whose objects are leaves.
_CLOSED = frozenset({"torch", "numpy", "mlopt", "builtins"})


def _is_object(held: Any) -> bool:
    """Whether something is an object that holds others, and no more than that."""
    kind = type(held)
    if not _may_hold(kind):
        return False
    if dataclasses.is_dataclass(held):
        return True
    return not callable(held) and (isinstance(getattr(held, "__dict__", None), dict)
                                   or has_slots(kind))  # fmt: skip


@functools.lru_cache(256)
def _may_hold(kind: type) -> bool:
    return (
        not issubclass(kind, type | types.ModuleType | nn.Module | Tensor | np.ndarray)
        and not hasattr(kind, "__next__")
        and (dataclasses.is_dataclass(kind) or home(kind).split(".")[0] not in _CLOSED)
    )


def _leads_to_numbers(held: Any) -> bool:
    """Whether a tensor or an array is in something."""
    seen: dict[int, Any] = {}
    waiting = deque([held])  # the nearest first: one is soon met, if any is
    while waiting:
        one = waiting.popleft()
        if isinstance(one, Tensor | np.ndarray):
            return True
        if type(one) in _PLAIN or id(one) in seen:
            continue
        seen[id(one)] = one
        waiting += _inside(one, _places(one))
    return False


def own_copy(held: Any) -> Any:
    """A copy of a tensor or array of a batch, with its attributes; anything else as it is."""
    if isinstance(held, Tensor) and (held.is_leaf or not held.requires_grad):
        other = held.detach().clone().requires_grad_(held.requires_grad)
        vars(other).update(vars(held))  # attributes of the user's
        return other
    return held.copy() if isinstance(held, np.ndarray) else held

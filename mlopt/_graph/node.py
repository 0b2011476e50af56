"""What problems and signals have in common: a function, and what its arguments read."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._arguments import take
from .._errors import GraphError
from .._variable import Source, Stop, Variable
from .options import listed, optional_name
from .part_options import check_part_options
from .stream import Stream, stream_of

__all__ = ["Argument", "Node", "Precision", "Read"]

#: What a node is for good.
_FIXED = frozenset(
    {
        "over", "given", "data", "streams", "state", "arguments", "precision", "split", "count",
        "combine",
    }
)  # fmt: skip
Precision = Literal["bf16", "fp16", "float32"]
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Read:
    """One edge: a source, and whether gradients stop there."""

    source: Any
    stopped: bool = False


@dataclass(frozen=True)
class Argument:
    """One positional argument of a function: one read, or a list of them."""

    reads: tuple[Read, ...]
    is_list: bool


class Node(Source):
    """A pure function of what it reads. Its arguments are the edges of the graph.

    Args:
        fn: the function; called with one positional argument for each of `over`, `given`, `data`.
        name: label in errors, plans and logs.
        over: variables it minimises over, as arguments (none for a signal).
        given: what else it reads, in the order of the arguments.
        data: a loader or `Stream`, several of them as a tuple, or None.
        precision: what the function computes in; None for that of the engine.
        split: how its batch is split, see `problem`.
        count: what a part of its batch counts.
        combine: how the values at parts come together.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str | None,
        over: tuple[Argument, ...],
        given: Sequence[Any],
        data: Any,
        precision: Precision | None = None,
        split: Any = None,
        count: Callable[[Any], Any] | None = None,
        combine: str | None = None,
    ) -> None:
        self.fn = fn
        self.name: str = label_of(type(self).__name__.lower(), fn, name)
        self.precision = take(GraphError, self.name, "precision", precision, Precision | None)
        sources = isinstance(given, Variable | Node | Stop)
        example = f"given=[{_show(given)}]" if sources else "given=[w]"
        self.given = tuple(
            argument(g, self.name) for g in listed(self.name, "given", given, example)
        )
        self.arguments: tuple[Argument, ...] = over + self.given
        #: Every edge into this node, in the order of the arguments.
        self.reads = tuple(read for argument in self.arguments for read in argument.reads)
        self.data_is_tuple = isinstance(data, tuple)  # a list is a loader: of its batches
        loaders = data if isinstance(data, tuple) else () if data is None else (data,)
        where = f"{self.name}: data="
        self.streams: tuple[Stream, ...] = tuple(stream_of(x, where) for x in loaders)
        check_part_options(self.name, split, count, combine, bool(self.streams), not over)
        self.split, self.count, self.combine = split, count, combine
        for source in (sources := [r.source for r in self.reads]):
            if sources.count(source) > 1:
                raise GraphError(f"{self.name} reads {source.name} twice; name each source once.")
        self._check_signature()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and (name == "data" or vars(self).get(name, value) is not value):
            raise GraphError(
                f"{self.name}: {name}= cannot be given anew, since graphs are made of it. Declare "
                f"a new {type(self).__name__.lower()}, and make a new engine."
            )
        super().__setattr__(name, value)

    def _check_signature(self) -> None:
        try:
            parameters = list(inspect.signature(self.fn).parameters.values())
        except (TypeError, ValueError):  # some callables in C have no signature
            return
        expected = len(self.arguments) + bool(self.streams)
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        required = sum(p.default is p.empty for p in positional)
        named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if expected < required or (expected > len(positional) and not variadic) or named:
            names = [
                _show(a.reads[0].source) if not a.is_list else "a list" for a in self.arguments
            ]
            received = ", ".join(names + ["batch"] * bool(self.streams)) or "nothing"
            raise GraphError(
                f"{self.name}({', '.join(p.name for p in parameters)}) will be called with "
                f"{expected} arguments ({received}): over, given and data= must match its "
                "arguments."
            )
        if self.streams and expected <= len(positional):
            self._check_place_of_batch(positional[expected - 1])
        self._warn_of_swaps([p.name for p in positional])

    def _check_place_of_batch(self, place: inspect.Parameter) -> None:
        """A default that no batch could be says that the argument is an option of the function."""
        default = place.default
        if default is place.empty or not (
            isinstance(default, bool | str | bytes | numbers.Number) or callable(default)
        ):
            return
        raise GraphError(
            f"{self.name}: its batch would arrive as {place.name!r}, which is {default!r} by "
            "default, an option. Let an argument for the batch come before it (batch, or "
            "batch=None), or leave data= out."
        )

    def _warn_of_swaps(self, names: list[str]) -> None:
        """An argument that carries the name of a source at another place looks like a swap."""
        place = {
            a.reads[0].source.name.lower(): i for i, a in enumerate(self.arguments) if not a.is_list
        }
        for i, name in enumerate(names[: len(self.arguments)]):
            if place.get(name, i) != i and not self.arguments[i].is_list:
                warnings.warn(
                    f"{self.name}: argument {name!r} receives "
                    f"{self.arguments[i].reads[0].source.name}, while {name} goes to "
                    f"{names[place[name]] if place[name] < len(names) else 'another argument'!r}. "
                    "Are they swapped?",
                    stacklevel=_levels_to_the_user(),
                )
                return

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _levels_to_the_user() -> int:
    """How many frames up the first one is that is not of mlopt, for a warning of the caller's."""
    frame, levels = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{_PACKAGE}."):
        frame, levels = frame.f_back, levels + 1
    return max(levels, 1)


def label_of(what: str, fn: Any, name: Any) -> str:
    """The label of a node, for errors and logs.

    Args:
        what: is declared.
        fn: its function.
        name: as given, or None.

    Returns:
        The name, or that of the function.

    Raises:
        GraphError: there is no function, or the name is none.
    """
    if not callable(fn):
        raise GraphError(f"{what}: it decorates a function, got {fn!r}.")
    label = getattr(fn, "__name__", type(fn).__name__)
    optional_name(f"{what} {label}", name)
    return name or label


def argument(given: Any, where: str) -> Argument:
    """Read one entry of `given` (or `over`): a source, a stopped source, or a list of them."""
    if isinstance(given, list | tuple):
        if not given:
            raise GraphError(f"{where}: an empty list among what it reads; leave it out.")
        return Argument(tuple(_read(g, where) for g in given), is_list=True)
    return Argument((_read(given, where),), is_list=False)


def _read(given: Any, where: str) -> Read:
    source, stopped = (given.source, True) if isinstance(given, Stop) else (given, False)
    if not isinstance(source, Variable | Node):
        raise GraphError(
            f"{where}: cannot read {_show(source)}; over= and given= take variables and signals. "
            "A constant network or tensor needs no declaration: use it in the function."
        )
    return Read(source, stopped)


def _show(source: Any) -> str:
    if isinstance(source, Variable | Node):
        return source.name
    return f"a {type(source).__name__}"

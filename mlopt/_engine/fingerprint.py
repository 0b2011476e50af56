"""`fingerprint`: what a run is of, so that it is not resumed as another one."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from .._containers.loaders import describe
from .._errors import SettingsError
from .._evaluation.precision import name_of
from .._graph.brief import brief
from .._graph.node import Node
from .._graph.problem import PerStep, Problem
from .._graph.stream import Stream
from .stepper import Stepper

__all__ = ["PARTS", "check_fingerprint", "fingerprint"]

#: What may be declared to differ, and what it is called.
PARTS = ("graph", "objectives", "optimizers", "data", "seed", "parts")

#: Of an object whose class does not say how it is shown: another one in each process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

#: Of texts, by their functions: a file may be edited while what was read from it runs.
_sums = WeakKeyDictionary[Any, str]()


def fingerprint(engine: Stepper) -> dict[str, dict[str, str]]:
    """What an engine is made of, in words: parts, and for each what is compared by name.

    Learning rates and other numbers of optimizers are not among it, which belong to the state; nor
    are devices, or how long a run is.

    Args:
        engine: whose.

    Returns:
        Words by part of `PARTS` and name.
    """
    graph = engine.graph
    labels = graph.labels
    optimized = [p for p in graph.problems if p.optimizer is not None]
    return {
        "graph": {
            **{labels[node]: _declared(engine, node) for node in graph.nodes},
            "schedule": _ADDRESS.sub("", repr(engine._schedule)),
        },
        "objectives": {labels[node]: _source(node.fn) for node in graph.nodes},
        "optimizers": {labels[p]: _steps(p) for p in optimized},
        "data": {f"loader {i + 1}": _data(stream) for i, stream in enumerate(engine._feed.streams)},
        "seed": {"seed": str(engine._seed)},
        "parts": {"parts": str(graph.parts), **_ranks(engine)},
    }


def check_fingerprint(
    where: str, there: Mapping[str, Any], here: Mapping[str, Any], override: Collection[str]
) -> None:
    """Refuse to go on with another run, but for what may differ.

    Args:
        where: the file.
        there: the fingerprint in it.
        here: that of the run which wants to go on.
        override: parts that may differ.

    Raises:
        SettingsError: they differ; the message says in what.
    """
    found = [*_differences(there, here, override)]
    if not found:
        return
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    parts = sorted({part for part, _ in found})
    raise SettingsError(
        f"{where}: is of another run: {'; '.join(text for _, text in found[:4])}{more}. Give "
        f"another folder, or, if that is meant, override={parts!r}."
    )


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], override: Collection[str]
) -> Iterator[tuple[str, str]]:
    for part in PARTS:
        if part in override:
            continue
        then, now = there.get(part, {}), here[part]
        if part == "parts" and "ranks" in {**then, **now}:  # a run may go on with any number
            continue
        for name in {**then, **now}:
            if then.get(name) == now.get(name):
                continue
            if part == "objectives" and name in then and name in now:
                yield part, f"the function of {name} has been edited"
            else:
                missing = "not there"
                was, is_now = then.get(name, missing), now.get(name, missing)
                yield part, f"{name} is {was} in it, not {is_now}"


def _ranks(engine: Stepper) -> dict[str, str]:
    ranks = engine._agreement.ranks
    return {} if ranks is None else {"ranks": str(ranks.size)}


def _declared(engine: Stepper, node: Node) -> str:
    """What a node reads, and by which method it is to be anticipated."""
    reads = [f"stop({r.source.name})" if r.stopped else r.source.name for r in node.reads]
    data = [f"loader {engine._feed.streams.index(s) + 1}" for s in node.streams]
    words = [f"{type(node).__name__.lower()} of ({', '.join([*reads, *data])})"]
    if isinstance(node, Problem):
        words.append(f"over {', '.join(v.name for v in node.over)}")
        words.append(f"by {brief(engine.graph.declared[node])}")
        if (game := engine.graph.games.get(node)) is not None:
            words.append(f"in a game by {brief(game.play)}")
        plain = {"clip": None, "start": 0, "every": 1, "repeat": 1}
        own = ((name, getattr(node, name)) for name in plain)
        words += [f"{name}={value}" for name, value in own if value != plain[name]]
    if (dtype := engine._evaluator.precision.dtypes.get(node)) is not None:
        words.append(f"in {name_of(dtype)}")
    return _ADDRESS.sub("", ", ".join(words))


def _source(function: Any) -> str:
    """A sum of a function's text, as it was when first asked for; empty where there is none."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        if function not in _sums:
            text = textwrap.dedent(inspect.getsource(function))
            _sums[function] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return _sums[function]
    except (OSError, TypeError):  # it was typed in, or is no function
        return ""


def _steps(problem: Problem) -> str:
    scheduler = problem.scheduler
    if scheduler is None:
        return type(problem.optimizer).__name__
    each = isinstance(scheduler, PerStep)
    kind = type(scheduler.scheduler if each else scheduler).__name__  # type: ignore[union-attr]
    return f"{type(problem.optimizer).__name__} with {f'PerStep({kind})' if each else kind}"


def _data(stream: Stream) -> str:
    loader = stream.loader
    words = [describe(loader)]
    for name, value in (
        ("batches", stream.length),
        ("samples", _length(getattr(loader, "dataset", None))),
        ("batch_size", getattr(loader, "batch_size", None)),
    ):
        if value is not None:
            words.append(f"{name}={value}")
    return ", ".join(words)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except Exception:  # it has none
        return None

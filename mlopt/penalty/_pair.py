"""What the penalty methods share: the checked pair of problems, and calls of their functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._errors import GraphError
from .._evaluation.devices import cuda_devices
from .._evaluation.loss import split_loss
from .._evaluation.shardable import is_sharded
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._graph.stream import Stream
from .._replay import derive_seed, replay
from .._variable import Stop, Variable
from ..hypergrad import Frozen
from ..optim.numbers import numbers_in
from ._swap import lent_buffers

__all__ = ["Pair", "Penalty"]

Values = Mapping[Any, Any]


@dataclass(frozen=True)
class Penalty:
    """The single-level problems that a penalty method made of two levels.

    Attributes:
        nodes: what `Engine` takes, in its order.
        upper: the problem over the upper variable, under the name of the user's own.
        lower: the problem over the lower variable, under the name of the user's own.
        weight: the signal by which the lower objective is weighed; logged under its name.
        copy: the second copy of the lower variable (`f2sa`); None where it lives inside a step.
        follower: the problem over that copy, or None.
    """

    nodes: tuple[Node, ...]
    upper: Problem
    lower: Problem
    weight: Signal
    copy: Variable | None = None
    follower: Problem | None = None


class Pair:
    """A lower and an upper problem that read each other, and nothing else that could respond.

    Args:
        method: name of the public function, for errors.
        lower: over one variable, given the upper's.
        upper: given the lower's variable.

    Raises:
        GraphError: they are not such a pair.
    """

    def __init__(self, method: str, lower: Problem, upper: Problem) -> None:
        _check_problems(method, lower, upper)
        _check_whole(method, lower, upper)
        _check_reads(method, lower, upper)
        _check_numbers(method, lower, upper)
        self.lower, self.upper = lower, upper
        self.y = lower.over[0]
        reads = [*lower.reads, *upper.reads]
        self.signals = _listed(r.source for r in reads if isinstance(r.source, Signal))
        self.sources: tuple[Any, ...] = tuple(dict.fromkeys(r.source for r in reads))
        self.lower_sources: tuple[Any, ...] = tuple(r.source for r in lower.reads)
        self.streams = tuple(dict.fromkeys((*lower.streams, *upper.streams)))
        self._devices = cuda_devices((*lower.over, *upper.over), None)

    def without(self, *variables: Variable) -> list[Any]:
        """All that the two problems read, without these."""
        return [s for s in self.sources if s not in variables]

    def call(
        self,
        problem: Problem,
        values: Values,
        batches: Mapping[Stream, Any],
        seed: int,
        *,
        writes: bool = False,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Call the function of one of the two problems.

        Random numbers depend on the seed and the problem alone: two calls of one objective in one
        step drop the same units, and their difference has no noise of its own.

        Args:
            problem: the lower or the upper one.
            values: what stands for each source that it reads.
            batches: by stream.
            seed: of this evaluation.
            writes: whether the buffers of the problem's own variable are written, as by the base
                evaluation of the problem that was declared; no others ever are.

        Returns:
            Its loss and metrics.
        """
        arguments: list[Any] = []
        for argument in problem.arguments:
            read = [values[r.source] for r in argument.reads]
            arguments.append(read if argument.is_list else read[0])
        if problem.streams:
            parts = tuple(batches[s] for s in problem.streams)
            arguments.append(parts if problem.data_is_tuple else parts[0])
        kept = [
            values[r.source] for r in problem.reads if not (writes and r.source in problem.over)
        ]
        with replay(derive_seed(seed, problem.name), self._devices), lent_buffers(kept):
            return split_loss(problem.fn(*arguments), problem.name)


def single_level(
    objective: Callable[[Values, Mapping[Stream, Any]], Any],
    *,
    of: Sequence[Problem],
    like: Problem,
    over: Sequence[Variable],
    given: Sequence[Any],
    streams: Sequence[Stream],
    **changes: Any,
) -> Problem:
    """A problem that reads all others as they stand, with the options of one of the user's.

    It is computed in float32 whatever the precision of the engine, and in parts of its batches
    where those of the user's that it calls are means and cut alike; else it takes them whole.

    Args:
        objective: (values by source, batches by stream) -> loss, or (loss, metrics).
        of: the user's problems that it calls.
        like: whose optimizer, scheduler, clip, start, every, repeat and name it takes.
        over: the variables it is minimised over.
        given: the sources it reads, stopped or not.
        streams: whose batches it reads.
        **changes: options that differ.

    Returns:
        The problem.
    """
    sources = [g.source if isinstance(g, Stop) else g for g in given]
    fn = by_source(objective, (*over, *sources), streams)

    def loss(own: list[Any], others: list[Any], batch: Sequence[Any] = ()) -> Any:
        return fn([*own, *others], batch)

    options: dict[str, Any] = {
        "optimizer": like.optimizer,
        "scheduler": like.scheduler,
        "clip": like.clip,
        "start": like.start,
        "every": like.every,
        "repeat": like.repeat,
        "name": like.name,
        **_in_parts(of),
        **changes,
    }
    return Problem(
        loss,
        over=list(over),
        given=[list(given)],
        data=tuple(streams),
        hypergrad=Frozen(),
        precision="float32",  # two copies that differ by little, and the difference is enlarged
        **options,
    )


def _in_parts(of: Sequence[Problem]) -> dict[str, Any]:
    """How a problem that adds up others is taken in parts: as all of them are, or whole."""
    # Of sums, its metrics would be sums; and no function of the user's knows the others' batches.
    means = all(p.combine == "mean" and p.count is None for p in of)
    cut = all(p.split is not False and not callable(p.split) for p in of)
    return {"split": of[0].split if means and cut and len({p.split for p in of}) == 1 else False}


def by_source(
    fn: Callable[[Values, Mapping[Stream, Any]], Any],
    sources: Sequence[Any],
    streams: Sequence[Stream],
) -> Callable[..., Any]:
    """From a function of dictionaries to one of lists, as the engine calls it."""

    def called(values: Sequence[Any], batch: Sequence[Any] = ()) -> Any:
        return fn(dict(zip(sources, values, strict=True)), dict(zip(streams, batch, strict=True)))

    return called


def _check_problems(method: str, lower: Any, upper: Any) -> None:
    for role, p in (("lower", lower), ("upper", upper)):
        if not isinstance(p, Problem):
            raise GraphError(
                f"{method}: {role}= takes a problem, got {type(p).__name__}. "
                "Decorate its function with mlopt.problem."
            )
    if lower is upper:
        raise GraphError(f"{method}: {lower.name} is given as lower= and as upper=; give two.")
    if len(lower.over) > 1:
        names = ", ".join(v.name for v in lower.over)
        raise GraphError(
            f"{method}: {lower.name} is over {names}; the lower problem is over one variable here. "
            "Put them into one module."
        )
    if lower.over[0] in upper.over:
        raise GraphError(
            f"{method}: {lower.name} and {upper.name} are both over {lower.over[0].name}; each "
            "level has a variable of its own."
        )
    if lower.optimizer is None:
        raise GraphError(
            f"{method}: {lower.name} has no optimizer, and a penalty method moves its variable. "
            "Give the problem optimizer=."
        )


def _check_reads(method: str, lower: Problem, upper: Problem) -> None:
    for reader, other in ((lower, upper), (upper, lower)):
        names = ", ".join(v.name for v in other.over)
        read = [r for r in reader.reads if r.source in other.over]
        if not read:
            raise GraphError(
                f"{method}: {reader.name} does not read {names}, which {other.name} is over, so "
                "they are no two levels of one problem. Add it to given=."
            )
        if any(r.stopped for r in read):
            raise GraphError(
                f"{method}: {reader.name} reads stop() of {names}; a penalty method gets its "
                "gradient by this very edge. Read it without stop()."
            )
        for source in (r.source for r in reader.reads):
            if isinstance(source, Variable) and source not in (*lower.over, *upper.over):
                raise GraphError(
                    f"{method}: {reader.name} reads {source.name}, which neither {lower.name} nor "
                    f"{upper.name} is over; two levels are all that is supported. A constant "
                    "network needs no declaration: use it in the function."
                )
            if isinstance(source, Signal) and (behind := _variables(source)):
                raise GraphError(
                    f"{method}: {reader.name} reads the signal {source.name}, which depends on "
                    f"{', '.join(v.name for v in behind)} and cannot be computed anew for a second "
                    "copy. Compute it inside the function, from the variable."
                )


def _check_numbers(method: str, lower: Problem, upper: Problem) -> None:
    owned = {id(t): v for p in (lower, upper) for v in p.over for t in v.parameters()}
    for p in (lower, upper):
        for option, tensor in numbers_in(p.optimizer.param_groups if p.optimizer else ()):
            if id(tensor) in owned:
                raise GraphError(
                    f"{method}: {p.name}'s optimizer takes {owned[id(tensor)].name} as its "
                    f"{option}, and a penalty method passes no gradient through steps: it knows "
                    "the lower problem by its objective. Give the optimizer a number, or take "
                    "Unrolled(...) in an engine of the two problems."
                )


def _variables(signal: Signal) -> list[Variable]:
    """The variables that a signal depends on, directly or through other signals."""
    found: dict[Variable, None] = {}
    for source in (r.source for r in signal.reads):
        inner = _variables(source) if isinstance(source, Signal) else [source]
        found.update(dict.fromkeys(inner))
    return list(found)


def _listed(signals: Iterable[Any]) -> tuple[Signal, ...]:
    """Signals and the signals that they read, each below its readers."""
    found: dict[Signal, None] = {}
    for signal in signals:
        found.update(dict.fromkeys((*_listed(r.source for r in signal.reads), signal)))
    return tuple(found)


def _check_whole(method: str, *problems: Problem) -> None:
    for v in (read.source for p in problems for read in p.reads):
        if isinstance(v, Variable) and any(map(is_sharded, v.parameters())):
            raise GraphError(
                f"{method}: {v.name} is sharded over ranks, and a penalty method puts copies of "
                "whole parameters into modules. Do not shard it, or take a method of hypergrad=."
            )

"""What goes between ranks in a step of a staged graph, by formulas; and how long a ring takes.

The formulas are those of docs/scaling.md. They know the bytes of the tensors, who reads whom and
the methods, and evaluate nothing: so they hold for models that fit into no memory here.
`tests/distributed/test_cost_model.py` compares them with what `engine.plan(ranks=)` counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlopt

__all__ = ["LINKS", "Buffers", "Level", "Link", "Sizes", "Wire", "ring", "staged"]

#: Bytes of each of some tensors.
Sizes = tuple[int, ...]
Buffers = tuple[int, int, bool]
#: Gradients go when there is so much of them, or when they are read; a collective takes so much.
WORTH, BUCKET = 2**20, 32 * 2**20


@dataclass(frozen=True)
class Level:
    """A problem of a staged graph, or a signal.

    Attributes:
        name: of it.
        reads: r, by the name of whose value it is: the bytes of each tensor that is the same on all
            ranks. A signal with a row for each sample is read as (): a rank has its own rows.
        own: the bytes of each parameter of a problem, |w|.
        method: of a problem that others read; None for the top, and for signals.
        value: the bytes of each tensor of a combined signal, |s|, those of one type together.
        metrics: how many numbers a problem returns beside its loss.
        buffers: floating-point numbers in its buffers, whole ones, and whether the first are whole.
        data: the streams that it reads; none: every rank computes it alike.
        adds: whether it is a sum over samples (`combine="sum"`).
        through: whether a problem depends on its own variables through lower ones alone.
    """

    name: str
    reads: Mapping[str, Sizes]
    own: Sizes = ()
    method: Any = None
    value: tuple[Sizes, ...] = ()
    metrics: int = 0
    buffers: Buffers = (0, 0, False)
    data: tuple[str, ...] = ()
    adds: bool = False
    through: bool = False

    @property
    def problem(self) -> bool:
        """Whether it is one."""
        return bool(self.own)


@dataclass
class Wire:
    """Collectives and the bytes that a rank gives to them, by purpose."""

    collectives: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    _waiting: list[int] = field(default_factory=list)

    def now(self, purpose: str, tensors: Sequence[int]) -> None:
        """A sum that is read at once."""
        filled = 0
        for size in tensors:
            if not filled or filled + size > BUCKET:
                self.collectives[purpose] += 1
                filled = 0
            filled += size
            self.bytes[purpose] += size

    def soon(self, purpose: str, tensors: Sequence[int]) -> None:
        """A sum that goes with others, up to the next `arrive`."""
        self._waiting += tensors
        if sum(self._waiting) >= WORTH:
            self.arrive(purpose)

    def arrive(self, purpose: str) -> None:
        """What waits is read."""
        self.now(purpose, self._waiting)
        self._waiting = []

    @property
    def all(self) -> dict[str, tuple[int, int]]:
        """(Collectives, bytes) by purpose."""
        return {what: (n, self.bytes[what]) for what, n in self.collectives.items()}


def staged(levels: Sequence[Level], item: int = 4, sequential: bool = False) -> Wire:
    """What goes between ranks in a step.

    Args:
        levels: from the lowest to the top. Those whose method unrolls are below no other kind.
        item: bytes of a number.
        sequential: whether each problem is committed before the next is evaluated.

    Returns:
        The traffic.
    """
    wire, by_name, top = Wire(), {x.name: x for x in levels}, levels[-1]
    steps = max((x.method.steps for x in levels if _unrolls(x)), default=0)

    def leads(name: str) -> bool:
        """Whether the gradient of the top goes on to this value, and from there to the top."""
        below = by_name[name]
        if name == top.name:
            return True
        responds = not below.problem or below.method.responds
        return responds and any(map(leads, below.reads))

    reached = {top.name}
    for level in reversed(levels):
        reached |= {x for x in level.reads if level.name in reached and leads(x)}

    def wanted(level: Level) -> Sizes:
        """|r|: of what gradients are taken for the sweep."""
        return tuple(s for name, sizes in level.reads.items() if leads(name) for s in sizes)

    def committed() -> None:
        wire.arrive("gradients")
        if waiting:
            # And whether a rank found other values, as a number of the type of the first.
            wire.now("decision", [sum(waiting) + (3 * item if whole[0] else item)])

    def evaluations(signal: Level) -> int:
        """One; or one for each inner step of each problem that unrolls and reads it."""
        if signal.name not in reached or not steps:
            return 1
        readers = [x for x in levels if signal.name in x.reads]
        return sum(evaluations(x) if not x.problem else steps for x in readers)

    for level in levels:
        if level.data and level.value:
            for _ in range(evaluations(level)):
                for tensors in level.value:
                    wire.now("signals", tensors)

    # Going up: every problem's gradient. A look-ahead needs those that are under way.
    waiting: list[int] = []
    whole: list[bool] = []  # which go as three numbers
    ahead: set[str] = set()
    for level in levels:
        if not ahead.isdisjoint(level.reads):
            wire.arrive("gradients")
        if _looks_ahead(level):
            ahead.add(level.name)
        if not level.problem:
            continue
        passed = level is top or (_product(level) is mlopt.OneSided and level.name in reached)
        gradients = (() if level.through else level.own) + (wanted(level) if passed else ())
        if _unrolls(level):
            for _ in range(steps):
                wire.now("gradients", level.own)
        elif steps and level is top:
            wire.now("gradients", gradients)
        else:
            wire.soon("gradients", gradients)
        if not _unrolls(level):
            own = (1 + _displaced(level)) * (1 + level.metrics) * item
            waiting.append(own + (level.buffers[0] + 3 * level.buffers[1]) * item)
            whole.append(level.buffers[2])
            if sequential:
                committed()
                waiting.clear()
                whole.clear()
    unrolled = steps * sum(map(_unrolls, levels))
    for _ in range(unrolled - 1):  # each step's loss goes before the next one's, with its buffers
        wire.now("decision", [item])
    if unrolled:
        waiting.append(item)
        whole.append(False)
    committed()

    # Going down: cotangents on signals, and products.
    for level in reversed(levels[:-1]):
        if level.name not in reached or not level.data:
            continue
        r = wanted(level)
        if not level.problem:
            for _ in range(evaluations(level)):
                wire.now("gradients" if steps else "cotangents", r)
        elif steps:
            for k in range(steps):
                wire.now("gradients", r + (level.own if k else ()))
        else:
            _pull_back(wire, level, r)
    _agree(wire, levels)
    return wire


def _pull_back(wire: Wire, level: Level, r: Sizes) -> None:
    """The product of a problem's mixed derivative with a cotangent, and what comes before it."""
    method = level.method
    if isinstance(method, mlopt.ZerothOrder):
        for _ in range(2 * method.samples):
            wire.now("products", level.own)
        return
    by = []
    if isinstance(method, mlopt.Implicit):
        by = [level.own] * method.solver.most_products(sum(level.own))
    for tensors in [*by, r]:  # of products with the Hessian, and of the mixed one
        points = {mlopt.Central: 2, mlopt.OneSided: 1}.get(_product(level), 0)  # type: ignore[arg-type]
        if not points:
            wire.now("products", tensors)
        for _ in range(points):
            wire.soon("products", tensors)
        wire.arrive("products")


def _agree(wire: Wire, levels: Sequence[Level]) -> None:
    """What the hosts tell each other: where they are, and how many samples each batch has."""
    streams = {s for level in levels for s in level.data}
    wire.now("agreement", [8 * (4 + len(streams))])
    for data, _ in dict.fromkeys((x.data, x.adds) for x in levels if x.data):
        wire.now("agreement", [8 * (3 + len(data))])


def _product(level: Level) -> Any:
    return type(getattr(level.method, "product", None))


def _unrolls(level: Level) -> bool:
    return isinstance(level.method, mlopt.Unrolled)


def _looks_ahead(level: Level) -> bool:
    return level.problem and level.method is not None and level.method.moves and not _unrolls(level)


def _displaced(level: Level) -> int:
    """Evaluations beside the base one."""
    if level.method is None or not level.method.responds or _unrolls(level):
        return 0
    return level.method.cost_of(sum(level.own)).evaluations


# Time.


@dataclass(frozen=True)
class Link:
    """What a rank sends by: an assumption, not a measurement.

    Attributes:
        name: of it.
        bandwidth: bytes a second in one direction, for each rank.
        latency: seconds that a collective takes, however small.
    """

    name: str
    bandwidth: float
    latency: float


LINKS = (
    Link("NVLink", 450e9, 30e-6),
    Link("InfiniBand", 50e9, 100e-6),
    Link("Ethernet", 12.5e9, 200e-6),
)


def ring(size: float, collectives: int, ranks: int, link: Link) -> float:
    """Seconds that a ring takes to add up so many bytes of each rank.

    Args:
        size: the bytes.
        collectives: in which they go.
        ranks: how many.
        link: between neighbours.

    Returns:
        2 (N - 1) / N of the bytes over the bandwidth, and a latency for each collective.
    """
    return 2 * (ranks - 1) / ranks * size / link.bandwidth + collectives * link.latency

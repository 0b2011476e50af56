"""The values that one evaluation of a total objective sees, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Key, Tensors, grouped

__all__ = ["Cut", "Find", "Frame", "Scope"]


class Frame:
    """Where an evaluation stands in the nest of levels: inside whose objectives. It has no values.

    What autograd calls back long after an evaluation knows its frame and a cut, never a scope: a
    scope holds the very tensors whose graph would hold the callback, and nothing frees a circle
    that goes through autograd.

    Args:
        graph: the graph.
        dormant: problems before their start, which are read as they stand.
        owner: whose total objective is evaluated.
        parent: the frame of the reader that asks for the owner's solution; None where the owner's
            own update is computed.
        differentiable: whether the gradient taken here will be differentiated.
        displaced: whether the owner's variables have another value than the standing one.
        inner: index of the owner's inner step.
        wide: whether all is computed in float32, as where the reader's is; see `Precisions.widens`.
    """

    def __init__(
        self,
        graph: Graph,
        dormant: frozenset[Problem],
        owner: Problem,
        parent: Frame | None = None,
        *,
        differentiable: bool = False,
        displaced: bool = False,
        inner: int = 0,
        wide: bool = False,
    ) -> None:
        self.graph, self.dormant, self.owner, self.parent = graph, dormant, owner, parent
        self.differentiable, self.displaced, self.inner = differentiable, displaced, inner
        self.wide = wide or (parent is not None and parent.wide)
        self.top: Problem = owner if parent is None else parent.top
        #: The inner steps that this evaluation is part of, innermost first.
        self.loops: tuple[tuple[Problem, int], ...] = () if parent is None else parent.loops
        if inner:
            self.loops = ((owner, inner), *self.loops)
        self._follows = graph.follows(owner)
        self._known: dict[tuple[Any, Problem], bool] = {}
        self._usual: dict[Any, bool] = {}

    def below(self, owner: Problem, **options: Any) -> Frame:
        """The frame of a problem whose solution is read here.

        Args:
            owner: the problem.
            **options: as of the class.

        Returns:
            The frame.
        """
        return Frame(self.graph, self.dormant, owner, self, **options)

    def resolved(self) -> list[Node]:
        """The signals and problems whose values are found here when the owner is evaluated."""
        graph, alone = self.graph, self.parent is None  # what the owner's own update evaluates
        owners = graph.moving(self.owner) if alone else self._solved(self.owner)
        waiting = [r.source for p in owners for r in p.reads]
        beside, found = graph.beside(self.owner), dict[Node, None]()
        for source in waiting:
            node = graph.node(source)
            if source not in beside and node not in found and self.resolves(source):
                found.update(dict.fromkeys(self._solved(node)))
                waiting += graph.asks(node, self.dormant)
        return list(found)

    def _solved(self, node: Node) -> tuple[Node, ...]:
        """A node and the problems that are solved with it."""
        if not isinstance(node, Problem):
            return (node,)
        return self.graph.solved_with(node, self.dormant)

    def resolves(self, source: Any) -> bool:
        """Whether a source is computed here, and not taken from the reader."""
        return self.parent is None or self.graph.node(source) in self._follows

    def depends(self, source: Any) -> bool:
        """Whether a source is made of the owner's variables, directly or through others."""
        return self.graph.node(source) in self._follows

    def stands(self, problem: Problem) -> bool:
        """Whether a problem is read here as it stands: above the top, or nothing can move it."""
        above = self.graph.rank[problem] > self.graph.rank[self.top]
        return above or not self.graph.participates(problem, self.dormant)

    def usual(self, source: Any) -> bool:
        """Whether a source is here what it is in the updates of all who read it where they stand.

        Args:
            source: a signal or a variable.

        Returns:
            False where something that it is made of has been displaced.
        """
        waiting = [source]  # without recursion: signals may follow one another at length
        while waiting:
            at = waiting[-1]
            heard = [r.source for r in at.reads] if isinstance(at, Signal) else []
            missing = [s for s in heard if isinstance(s, Signal) and s not in self._usual]
            if missing:
                waiting += missing
            else:
                waiting.pop()
                if at not in self._usual:
                    self._usual[at] = (
                        all(self._usually_heard(at, s) for s in heard)
                        if isinstance(at, Signal)
                        else self._usually_read(at)
                    )
        return self._usual[source]

    def _usually_read(self, variable: Any) -> bool:
        owner = self.graph.owner[variable]
        at = self._of(owner)
        if at is not None:
            return not at.displaced
        return self.stands(owner) or not self.displaces(owner)

    def _usually_heard(self, signal: Signal, source: Any) -> bool:
        """Whether this read of a signal is usual; it reads what is above it as it stands."""
        if isinstance(source, Signal):
            return self._usual[source]
        owner = self.graph.owner[source]
        if self.graph.rank[owner] > self.graph.rank[signal]:
            at = self._of(owner)
            return self.stands(owner) if at is None else not at.displaced
        return self._usually_read(source)

    def _of(self, problem: Problem) -> Frame | None:
        """The frame of a problem inside whose objective this evaluation stands."""
        at: Frame | None = self
        while at is not None and at.owner is not problem:
            at = at.parent
        return at

    def displaces(self, problem: Problem) -> bool:
        """Whether anything that a problem's total objective reads has left its standing value."""
        cuts = self.graph.cuts(problem, self.dormant)
        return any(self._displaced(source, problem) for source in cuts)

    def _displaced(self, source: Any, reader: Problem) -> bool:
        """Whether a source has another value than in the reader's own update."""
        key = (source, reader)
        if key not in self._known:
            self._known[key] = self._find_displaced(source, reader)
        return self._known[key]

    def _find_displaced(self, source: Any, reader: Problem) -> bool:
        if isinstance(source, Signal):
            return any(self._displaced(r.source, reader) for r in source.reads)
        owner = self.graph.owner[source]
        if self.owner is owner:
            return self.displaced
        if not self.resolves(source):
            return self.parent is not None and self.parent._displaced(source, reader)
        if self.stands(owner):
            return False
        # A lower solution has moved in the reader's own update as well.
        if self.graph.methods[owner].moves and self.graph.rank[owner] > self.graph.rank[reader]:
            return True
        cuts = self.graph.cuts(owner, self.dormant)
        return any(self._displaced(s, reader) for s in cuts)


#: (source, the scope that reads it) -> values by source: the signal's, or those of all variables of
#: the problem over it.
Find = Callable[[Any, "Scope"], dict[Any, Any]]


class Scope:
    """The values that the evaluation of one problem's total objective sees.

    Args:
        frame: where it stands.
        values: what is known from the start: the variables of the owner, by source.
        find: resolves what follows the owner.
        cut: everything else.
    """

    def __init__(
        self, frame: Frame, values: dict[Any, Any], find: Find, cut: Cut | None = None
    ) -> None:
        self.frame, self.find, self.cut = frame, find, cut
        self._values = values
        self.played: dict[Any, Tensors] = {}  # where games have led, as this scope sees them

    def value(self, source: Any) -> Any:
        """A variable's tensors by name, or a signal's value, as this evaluation sees it."""
        if source not in self._values:
            if self.cut is not None and not self.frame.resolves(source):
                return self.cut.value(source)
            self._values.update(self.find(source, self))
        return self._values[source]


class Cut:
    """What a problem's evaluations read from their reader: taken once, all of it.

    Args:
        scope: the reader's.
        sources: all that will be read.
        mode: "leaf": as leaves; "alias": as tensors connected to the reader's, so that what is
            computed from them can be differentiated; "constant": without gradient.
    """

    def __init__(self, scope: Scope, sources: Iterable[Any], mode: str) -> None:
        self.frame, self.find, self.mode = scope.frame, scope.find, mode
        self.arguments: Tensors = {}
        self.originals: Tensors = {}
        self._values: dict[Any, Any] = {}
        for source in sources:
            value = scope.value(source)
            signal = isinstance(source, Signal)
            parts = split(value, source.name) if signal else value
            cut = {name: self._tensor((source, name), t) for name, t in parts.items()}
            self._values[source] = join(value, cut) if signal else cut

    def value(self, source: Any) -> Any:
        """What was taken of a source."""
        return self._values[source]

    def moved(self, arguments: Tensors | None) -> Cut:
        """The same cut with other tensors for some of its arguments."""
        if not arguments:
            return self
        other = object.__new__(Cut)
        other.frame, other.find, other.mode = self.frame, self.find, self.mode
        other.arguments, other.originals = {}, {}
        other._values = dict(self._values)
        for source, tensors in grouped(arguments).items():
            value = other._values[source]
            if isinstance(source, Signal):
                other._values[source] = join(value, {**split(value, source.name), **tensors})
            else:
                other._values[source] = {**value, **tensors}
        return other

    def _tensor(self, key: Key, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        if self.mode == "constant":
            return tensor.detach()
        self.originals[key] = tensor
        if self.mode == "leaf":
            tensor = tensor.detach().requires_grad_()
        elif self.mode == "alias":
            tensor = tensor.view_as(tensor)
        self.arguments[key] = tensor
        return tensor

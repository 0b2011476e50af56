"""`Loops`: every level takes several steps for each step of the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.problem import Problem
from .builder import Builder
from .schedule import AbstractSchedule, check_turns, turn_of

__all__ = ["Loops"]


class Loops(AbstractSchedule):
    """Nested loops, the order of Betty: `Loops((low, 5), (middle, 2), (top, 1))` is one step.

        for each step of top:  2 times middle, and for each of these:  5 times low

    Every level goes on from where it stands (a warm start), and a higher one is updated with the
    last of the steps of the level below. It reads that level after those steps, and none of them is
    taken again: by `OneStep` or `Unrolled` the look-ahead is the last real step, which `Alternate`
    would follow by another one; by `Implicit` and `Frozen` the value is the one that they have led
    to. Every round of the innermost loop takes new batches from the streams it reads; the first
    takes the step's own. All is committed or, if anything is not finite, nothing.

    Do not use it where a problem reads one lower level by a look-ahead and another one as it
    stands: which of their steps it would see first is not said, so that is refused.

    Args:
        levels: pairs of a problem (or a tuple of problems, updated together) and its number of
            steps for each step of the next pair, from the lowest to the highest.

    Raises:
        GraphError: a level is not such a pair.

    Reference: Choe, Neiswanger, Xie, Xing, "Betty: an automatic differentiation library for
    multilevel optimization", ICLR 2023.
    """

    def __init__(self, *levels: tuple[Problem | tuple[Problem, ...], int]) -> None:
        self.levels: list[tuple[tuple[Problem, ...], int]] = []
        for level in levels:
            problems, steps = turn_of("Loops", level)
            if not isinstance(steps, int):
                raise GraphError(f"Loops: {level!r} is not a pair (problem, number of steps > 0).")
            self.levels.append((problems, steps))
        if not self.levels:
            raise GraphError("Loops() has no level; give pairs (problem, number of steps).")

    def check(self, graph: Graph) -> None:
        check_turns("Loops", graph, self.levels)
        place = {p: i for i, (problems, _) in enumerate(self.levels) for p in problems}
        for reader in place:
            read = [n for n in graph.needed(reader)[1:] if n in place]
            read += [
                n
                for r in reader.reads
                if (n := graph.source_node(reader, r.source)) in place and n not in read
            ]
            for below in read:
                if place[below] > place[reader]:  # type: ignore[index]
                    raise GraphError(
                        f"Loops: {reader.name} reads {below.name}, which is below it in the "
                        "engine's list and in a later loop. Give the lowest level first."
                    )
            moves = {graph.methods[p].moves for p in read}  # type: ignore[index]
            if len(moves) > 1:
                named = " and ".join(n.name for n in read)
                raise GraphError(
                    f"Loops: {reader.name} reads {named}, of which some look ahead and others "
                    "stand. Give them methods of one kind, or write the turns by Alternate."
                )

    def compose(self, builder: Builder, active: Sequence[Problem]) -> None:
        drawn: set[object] = set()
        rounds = math.prod(steps for _, steps in self.levels)
        for at in range(1, rounds + 1):
            chosen, period = list[Problem](), 1
            for problems, steps in self.levels:
                if at % period == 0:
                    chosen += [p for p in problems if p in active]
                period *= steps
            chosen.sort(key=builder.graph.place.__getitem__)
            streams = dict.fromkeys(s for p in chosen for s in builder.streams(p))
            if again := [s for s in streams if s in drawn]:
                builder.draw(again)
            drawn.update(streams)
            self._round(builder, chosen)
        builder.decide()

    def _round(self, builder: Builder, chosen: Sequence[Problem]) -> None:
        """Update some levels: each before those that read it as it stands, with the others."""
        together: list[Problem] = []
        for level in self._levels(chosen):
            if any(self._reads_standing(builder.graph, p, together) for p in level):
                self._update(builder, together)
                together = []
            together += level
        self._update(builder, together)

    def _levels(self, chosen: Sequence[Problem]) -> list[list[Problem]]:
        return [
            level for problems, _ in self.levels if (level := [p for p in chosen if p in problems])
        ]

    def _reads_standing(self, graph: Graph, reader: Problem, lower: Sequence[Problem]) -> bool:
        sources = {graph.source_node(reader, r.source) for r in reader.reads}
        needed = sources | set(graph.needed(reader)[1:])
        return any(p in needed and not graph.methods[p].moves for p in lower)

    def _update(self, builder: Builder, problems: Sequence[Problem]) -> None:
        ordered = sorted(problems, key=builder.graph.place.__getitem__)
        builder.totals(ordered)
        builder.iterate()
        for p in ordered:
            builder.commit(p)

    def __repr__(self) -> str:
        levels = ", ".join(f"({', '.join(p.name for p in ps)}, {n})" for ps, n in self.levels)
        return f"Loops({levels})"

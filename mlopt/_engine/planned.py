"""`Planned`: what the next step of an engine will do, before it is taken."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from .._arguments import checked, from_one, from_zero, in_body, take
from .._errors import GraphError
from .._evaluation.part_by_part import part_seed
from .._evaluation.point import Evaluator
from .._evaluation.sharded import Sharded
from .._graph.graph import Graph
from .._graph.homes import Home
from .._graph.node import Node
from .._graph.problem import Problem
from .._replay import derive_seed
from ..distributed.imagined import Imagined
from ..distributed.traffic import Traffic
from .agreement import Agreement
from .builder import Builder
from .evaluating import on_ranks
from .operations import Commit, Draw, Iterate, Nest, tried
from .outcome import Outcome
from .plan import Plan
from .schedule import AbstractSchedule, due
from .turns import in_turn

__all__ = ["Planned"]


class Planned(abc.ABC):
    """The part of an engine that knows its next step, and does not take it."""

    graph: Graph
    steps: int
    epoch: int
    _schedule: AbstractSchedule
    device: torch.device | None
    _agreement: Agreement
    _homes: Mapping[Node, Home]
    _evaluator: Evaluator
    _plans: dict[Any, tuple[Plan, frozenset[Problem]]]
    _counted: dict[int, tuple[Plan, Traffic]]  # by the number of ranks
    _seed: int
    _undo: bool
    _sharded: Sharded | None

    @abc.abstractmethod
    def _check(self) -> None:
        """Before anything is changed: do the functions read what they declare?"""

    @abc.abstractmethod
    def _try(self, plan: Plan, dormant: frozenset[Problem]) -> Outcome:
        """Run a plan of which nothing is kept."""

    def _active(self) -> tuple[tuple[Problem, ...], frozenset[Problem]]:
        """The problems that the next step updates, and those before their start."""
        return due(self.graph.problems, self.steps, self.epoch)

    @in_turn("plan()")
    def plan(self, ranks: int | None = None) -> Plan:
        """What the next step will do and cost, in evaluations and backward passes, before it runs.

        Where levels are nested or a method takes several steps, the first call makes a trial, which
        costs what it counts and changes nothing. So does a call for several ranks, with the batch
        of this process as that of each: what goes between them is counted, and goes nowhere. How
        it comes about, and how long it may take, is said in `docs/scaling.md`.

        Args:
            ranks: how many there are taken to be; by default as many as there are.

        Returns:
            The plan; print it for a table.

        Raises:
            GraphError: `ranks` is less than one, or another number than there are with `places=`.
        """
        count = take(GraphError, "plan", "ranks", ranks, int | None, from_one)
        with self._agreement.together():
            self._check()
        plan, dormant = self._compose()
        trials = [o for o in plan.operations if isinstance(o, Nest | Iterate)]
        if any(o.calls is None for o in trials):
            trial = tuple(o for x in plan.operations if (o := tried(x)) is not None)
            self._try(Plan(self.graph, trial), dormant)
        if count is None:
            count = self._agreement.size
        if self._homes and count != self._agreement.size:
            raise GraphError(
                f"plan(ranks={count}): variables of this engine live on ranks that places= names, "
                f"of which there are {self._agreement.size}. Leave ranks= out."
            )
        if count == 1 and self._evaluator.devices is None:
            return plan
        if self._sharded is not None and count != self._sharded.ranks.size:
            raise GraphError(
                f"plan: ranks={count}, and variables are sharded over "
                f"{self._sharded.ranks.size} ranks, whose rows are of that size. Ask on so many "
                "ranks, or an engine whose modules are not sharded."
            )
        known = self._counted.get(count)
        if known is None or known[0] is not plan:  # which is the same as long as nothing changes
            known = self._counted[count] = plan, self._between(count, plan, dormant)
        return replace(plan, ranks=count, traffic=known[1])

    @property
    def traffic(self) -> dict[str, tuple[int, int]]:
        """What has gone between ranks: collectives, and bytes that this one gave, by purpose.

        Between devices of one process: tensors, and their bytes.
        """
        devices = self._evaluator.devices if self._agreement.ranks is None else None
        return (self._agreement if devices is None else devices).traffic.all

    def _between(self, count: int, plan: Plan, dormant: frozenset[Problem]) -> Traffic:
        """What goes between so many ranks, or devices, in a step: counted in a trial."""
        evaluator, graph = self._evaluator, self.graph
        parts, stacks, before = evaluator.parts, dict(graph.stacks), evaluator.ranks
        # Where nodes have homes, it is the ranks that are: each knows its own part alone.
        ranks = before.ranks if self._homes else Imagined(count) if count > 1 else None
        between = ranks or evaluator.devices  # of one process
        already = between.traffic.copy()
        commits = [(o, tried(o)) for o in plan.operations]
        trial = tuple(
            t or o for o, t in commits if t is not None or not isinstance(o, Commit | Draw)
        )
        rows = None if self._sharded is None else self._sharded.ranks.traffic
        real = None if rows is None else rows.all
        with self._agreement.together():
            try:
                graph.stacks.clear()  # on ranks their members are evaluated one by one
                if ranks is not None and not self._homes:
                    evaluator.ranks = on_ranks(graph, ranks, parts, self.device)
                self._try(Plan(graph, trial), dormant)
            finally:
                evaluator.ranks, evaluator.parts = before, parts
                graph.stacks.update(stacks)
            if ranks is not None:
                ranks.exchange(self._agreement.state(self.steps, self.epoch))
        found = between.traffic.since(already)
        if rows is not None and real is not None:  # they do go between the ranks
            found.add(rows.all, real)
        return found

    def _compose(self) -> tuple[Plan, frozenset[Problem]]:
        """The plan of the next step, and the problems before their start."""
        if (found := self._plans.get(None)) is not None:  # that of all steps
            return found
        active, dormant = key = self._active()
        if (found := self._plans.get(key)) is None:
            builder = Builder(self.graph, dormant, self._undo)
            self._schedule.compose(builder, active)
            said = self._evaluator.precision.said(self._evaluator.narrow)
            found = Plan(self.graph, builder.plan(), self._undo, (*said,)), dormant
            always = all(p.every == 1 and not p.start for p in self.graph.problems)
            self._plans[None if always else key] = found
        return found

    @checked(GraphError, node=in_body, inner=from_zero, step=from_zero, part=from_zero)
    def seed_of(self, node: Node, inner: int = 0, *, step: int | None = None, part: int = 0) -> int:
        """The seed of a node's evaluations: torch's generators are set to it, and put back.

        Args:
            node: a problem or signal of the graph.
            inner: index of the inner step, for problems that make several updates in a step: r for
                the round r of a turn, k for the inner step k of a method, (r << 20) + k for both.
            step: index of the step; by default the next one.
            part: index of the part of its batch, under `Engine(parts=)`.

        Returns:
            A seed for `torch.manual_seed`, with which a plain loop draws what the engine draws.

        Raises:
            GraphError: the node is not one of this graph, or an index is none.
        """
        if not (isinstance(node, Node) and node in self.graph.labels):
            raise GraphError(f"seed_of: node={node!r} is no problem or signal of this engine.")
        return part_seed(self._seed_of(node, inner, step), part)

    def _seed_of(self, node: Node, inner: int = 0, step: int | None = None) -> int:
        at = self.steps if step is None else step
        return derive_seed(self._seed, "step", at, self.graph.labels[node], inner)

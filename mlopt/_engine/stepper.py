"""`Stepper`: one step of a graph, or one hypergradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._arguments import checked, from_one, from_zero, in_body
from .._errors import GraphError, NonFiniteError, SettingsError
from .._evaluation.causes import Aloud
from .._evaluation.compile import Compiler
from .._evaluation.shardable import check_options
from .._evaluation.sharded import sharded
from .._graph.feed import Feed
from .._graph.graph import Graph
from .._graph.group import Group
from .._graph.node import Node, Precision
from .._graph.problem import Problem
from .._graph.stream import Stream
from .._turn import waits
from .._variable import Variable
from ..distributed.ranks import found
from ..hypergrad.derivatives import scaled
from ..hypergrad.interface import AbstractHypergradient
from .agreement import Agreement
from .batches import Batches
from .builder import Builder
from .clock import Clock, check_epochs, counting_stream
from .device import usable
from .evaluating import checked_on, evaluator_of
from .failures import Failures
from .first_check import first_check
from .holding import Holdings
from .interrupts import Deferral
from .measure import Measurement, measure
from .outcome import Outcome, non_finite
from .ownership import Ownership
from .placed import placed
from .plan import Plan
from .planned import Planned
from .schedule import AbstractSchedule, Simultaneous
from .step import Step
from .transaction import Transaction, say_what_stays
from .turns import in_turn
from .unswept import unswept
from .watch import Care

__all__ = ["Stepper"]


class Stepper(Planned):
    """The engine without its loop: it takes one step at a time; see `Engine` for the arguments."""

    @waits
    @checked(
        GraphError, problems=in_body, hypergrad=in_body, schedule=in_body, device=in_body,
        compile=in_body, skip_nonfinite=from_zero, parts=from_one, ranks=in_body, places=in_body,
    )  # fmt: skip
    def __init__(
        self,
        problems: Sequence[Node | Group],
        *,
        hypergrad: AbstractHypergradient | None = None,
        schedule: AbstractSchedule | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
        skip_nonfinite: int = 0,
        compile: bool | Mapping[str, Any] = False,
        undo: bool = True,
        precision: Precision | None = None,
        parts: int = 1,
        ranks: Any = None,
        places: Mapping[Variable, Any] | None = None,
    ) -> None:
        if hypergrad is not None and not isinstance(hypergrad, AbstractHypergradient):
            raise GraphError(
                f"Engine: hypergrad= takes a method such as OneStep(), got {hypergrad!r}."
            )
        if schedule is not None and not isinstance(schedule, AbstractSchedule):
            raise GraphError(
                f"Engine: schedule= takes an object such as Sequential(), got {schedule!r}."
            )
        self.device = usable(device)
        self._doing, self._running = "", False  # which verb is at work, and `run` around it
        self._saved: tuple[int, Path] | None = None  # its run: after which step, and where
        self._validated = -1  # after which step `validate=` of its run measured last
        self._ranks = found(ranks)
        self.graph = Graph(problems, hypergrad, parts, self._ranks.size if self._ranks else 1)
        at = placed(self.graph, places, self._ranks, self.device)
        self._homes, self._devices = at.homes, at.devices
        self._schedule = schedule or Simultaneous()
        self._schedule.check(self.graph)
        self._seed, self._skips = seed, skip_nonfinite
        self._undo = undo
        self.steps = 0
        self.epoch = 0
        self.signals: dict[str, Any] = {}
        self.skipped: NonFiniteError | None = None
        self.measurement: Measurement | None = None
        streams = dict.fromkeys(s for node in self.graph.nodes for s in node.streams)
        self._feed = Feed(streams, seed, None if self._devices else self.device)
        self.clock = Clock(self.graph)
        self._epoch_stream: Stream | None = counting_stream(self.graph)
        check_epochs(self.graph, self._feed.streams, self._epoch_stream)
        self._sharded = sharded(self.graph, self._ranks)
        with nullcontext() if self._sharded is None else self._sharded.standing():
            self._set_up(precision, compile)

    def _set_up(self, precision: Precision | None, compile: bool | Mapping[str, Any]) -> None:
        """What knows where the tensors of modules and optimizers are."""
        self._evaluator = evaluator_of(self.graph, precision, self.device, self._ranks, self._homes)
        self._evaluator.devices = self._devices
        if self._sharded is not None:
            check_options(compile, self._evaluator.precision.dtypes.values())
            self._evaluator.sharded = True
        self._compiler = Compiler(self.graph, compile)
        self.compiled = self._compiler.compiled  # what it took so far; None if it is off
        self._evaluator.choose = self._compiler.choose if self.compiled is not None else None
        self._agreement = Agreement(self._ranks, self.graph, self._evaluator, self._feed)
        self._plans: dict[Any, tuple[Plan, frozenset[Problem]]] = {}
        self._counted = {}
        self._ownership = Ownership(self.graph, self._evaluator)
        self._checked = False
        self._failures = Failures()
        if torch.float16 in self._evaluator.precision.dtypes.values():
            self._failures.begin()
        self._care = Care()
        self._holdings = Holdings()
        self._interrupts = Deferral()

    # Verbs.

    @in_turn("hypergradient()")
    def hypergradient(self, problem: Problem) -> dict[Variable, dict[str, Tensor]]:
        """The gradient of a problem with respect to its variables at the current point.

        For an upper problem, the whole hypergradient through every lower problem it anticipates, on
        the batches of the next step. Nothing is stepped, drawn or changed: twice gives the same
        bits, and the step that follows uses the same batches.

        Args:
            problem: a problem of the graph.

        Returns:
            For each variable of the problem its tensors by parameter name ("" for a tensor
            variable), DTensors where it is sharded; a parameter that nothing depends on is absent.

        Raises:
            GraphError: the problem is not one of this graph.
            NonFiniteError: a loss or gradient was not finite.
        """
        if not isinstance(problem, Problem) or problem not in self.graph.problems:
            raise GraphError(f"hypergradient: {problem!r} is not a problem of this engine.")
        with self._agreement.together():
            self._check()
            dormant = self._active()[1]
            builder = Builder(self.graph, dormant)
            builder.gradient(problem)
            plan = Plan(self.graph, builder.plan())
            outcome = self._failures.attempt(lambda: self._try(plan, dormant))
        if outcome.failed is not None:
            error = non_finite(outcome, "hypergradient", self.steps, True)
            raise error from outcome.cause
        gradient = outcome.gradients[problem]
        out: dict[Variable, dict[str, Tensor]] = {v: {} for v in problem.over}
        for (variable, name), tensor in gradient.items():
            out[variable][name] = tensor
            if self._sharded is not None and (variable, name) in self._sharded.spread:
                out[variable][name] = self._sharded.wrapped((variable, name), tensor)
        return out

    def step(self) -> dict[str, Any]:
        """Take one step.

        Returns:
            Its metrics, keyed "problem/loss", "problem/gradient_norm" and "problem/name", as
            detached tensors on their devices.

        Raises:
            GraphError: the functions do not read what they declare, or no problem has an
                optimizer.
            NonFiniteError: a loss or gradient was not finite; nothing was committed. Raised once
                more than `skip_nonfinite` steps in a row have failed.
            SettingsError: `run` is taking the steps.
        """
        if self._running:
            raise SettingsError(
                "step(): run() of this engine is taking the steps. Let no callback, and no other "
                "thread, take one; give run() more steps, or call step() in a loop of your own."
            )
        self._agreement.before_step(self.steps, self.epoch)
        return self._take_step()

    @in_turn("step()")
    def _take_step(self) -> dict[str, Any]:
        with self._agreement.together(), unswept():
            metrics = self._stepped()
            self._agreement.look_over(self.steps)
        return metrics

    def _stepped(self) -> dict[str, Any]:
        self._check()
        plan, dormant = self._compose()
        if not self._ownership.trains:
            raise GraphError("Engine: no problem has an optimizer, so there is nothing to step.")
        first = self.measurement is None
        holdings, resting = self._holdings if self._undo else None, self._ownership.resting
        block = Transaction(self._evaluator, self._interrupts, holdings, resting)
        with block as transaction:
            memory = transaction.memory
            memory.keep_attributes(self, "steps", "epoch", "signals", "skipped", "measurement")
            memory.keep_attributes(self._failures, "size", "good", "row")
            self._feed.keep(memory.keep_attributes)
            if first:  # its hooks would be compiled into the functions
                with self._compiler.paused(), measure(self.graph.variables, self.device) as taken:
                    outcome = self._run(plan, dormant, transaction)
                self.measurement = taken
            else:
                outcome = self._run(plan, dormant, transaction)
            self._after(outcome, transaction)
        if first:
            say_what_stays(memory.closed)
        return outcome.metrics

    # After a step.

    def _after(self, outcome: Outcome, transaction: Transaction) -> None:
        read = self._feed.read
        self._count(outcome, transaction, read)
        if transaction.scheduled and (problem := transaction.spoilt_by_schedulers()) is not None:
            transaction.undo()
            outcome.failed = (self.graph.labels[problem], "scheduler")
            self._count(outcome, transaction, read)

    def _count(self, outcome: Outcome, transaction: Transaction, read: dict[Stream, int]) -> None:
        self.signals = outcome.signals
        self.skipped = self._failures.after(outcome, self.steps, self._undo, self._skips)
        before = self.epoch
        if read:
            with transaction.interrupts.lifted() if self._feed.unsure() else nullcontext():
                self._feed.finish(read)  # and a loader may keep one waiting
        self.steps += 1
        epochs = self._epoch_stream is not None
        if self._epoch_stream is not None:
            self.epoch = self._feed.passes[self._epoch_stream]
        self.clock.after_step(outcome, transaction, epochs, self.epoch > before)

    def _step(self, plan: Plan, dormant: frozenset[Problem], transaction: Transaction) -> Step:
        if self._evaluator.ranks is not None:
            self._evaluator.ranks.begin()
        return Step(
            self.graph, self._evaluator, self._ownership.trained(), plan, dormant, self._feed,
            self._seed_of, transaction, self._care,
        )  # fmt: skip

    def _run(self, plan: Plan, dormant: frozenset[Problem], transaction: Transaction) -> Outcome:
        self._feed.begin()

        def run() -> Outcome:
            if self._failures.size is None:
                return self._step(plan, dormant, transaction).run()
            with scaled(self._failures.size):
                return self._step(plan, dormant, transaction).run()

        outcome = self._compiler.attempt(run, self._feed)
        # From now on norms are taken in a way that does not overflow, or ranks know of each other.
        while outcome.overflowed or outcome.astray:
            self._feed.give_back()
            outcome = self._compiler.attempt(run, self._feed)
        return outcome

    def _try(self, plan: Plan, dormant: frozenset[Problem]) -> Outcome:
        """Run a plan of which nothing is kept."""
        try:
            with Transaction(self._evaluator, self._interrupts, None) as transaction:
                return self._run(plan, dormant, transaction)
        finally:
            self._feed.give_back()

    def _check(self) -> None:
        """Before anything is changed: do the functions read what they declare?"""
        if torch.is_inference_mode_enabled():
            raise GraphError(
                "Engine: under torch.inference_mode() nothing can be differentiated. Call it "
                "outside of that; no_grad() does no harm."
            )
        if not self._checked or self._ownership.changed():
            self._agreement.start()
            self._look(Aloud())

    def _look(self, hear: Aloud) -> None:
        """The check itself; what is heard of refusals and does not end it leaves it to be made.

        Each rank looks at its functions by itself, on its own samples.
        """
        self._checked = False
        ranks = self._evaluator.ranks
        for first in (True, False):  # functions may give modules other parts when first called
            with hear("graph", ""):
                self._ownership.check()
                self._schedule.check(self.graph)
                check_epochs(self.graph, self._feed.streams, self._epoch_stream, self.epoch)
            self._plans.clear()
            self._feed.begin()
            batch = checked_on(self._evaluator, Batches(self.graph, self._feed), self.device)
            at = self.graph, self._evaluator, batch, self._seed_of
            try:
                self._evaluator.ranks = None
                with self._compiler.paused(), scaled(self._failures.size):
                    if first_check(*at, self._attempt, hear, first):
                        break
            finally:
                self._evaluator.ranks = ranks
                self._evaluator.release()
                self._feed.give_back()
        self._checked = not hear.refused
        self._evaluator.precision.warn_of_none(self._evaluator.narrow)

    def _attempt(self, problem: Problem) -> None:
        """Take the whole gradient of a problem, of which nothing is kept or decided."""
        builder = Builder(self.graph)
        builder.gradient(problem)
        self._try(Plan(self.graph, tuple(builder.operations)), frozenset())

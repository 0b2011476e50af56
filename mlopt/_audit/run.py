"""One hypergradient of the engine, and its state put back after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .._engine.builder import Builder
from .._engine.engine import Engine
from .._engine.operations import Evaluate as PlannedEvaluation
from .._engine.operations import Total
from .._engine.outcome import Outcome
from .._engine.plan import Plan
from .._engine.step import Step
from .._engine.transaction import Transaction
from .._engine.watch import Care
from .._evaluation.point import Evaluator
from .._evaluation.surroundings import Surroundings
from .._graph.problem import Problem
from .._graph.stream import Stream
from .._graph.trained import trainable
from .._tensors import Tensors, dense
from ..hypergrad.derivatives import scaled
from .cost import Took, costs
from .precision import wide_batch

__all__ = ["Run", "run", "unchanged"]


@dataclass
class Run:
    """One hypergradient of the engine.

    Attributes:
        gradient: by key.
        loss: of the problem.
        took: the cost of it.
        backwards: passes as planned; None where the plan does not tell.
        step: knows the batches.
    """

    gradient: Tensors
    loss: float
    took: Took
    backwards: int | None
    step: Step


@contextmanager
def run(engine: Engine, problem: Problem, evaluator: Evaluator, wide: bool) -> Iterator[Run]:
    """`Engine.hypergradient`, with an evaluator of its own; the batches are there for the block."""
    dormant = engine._active()[1]
    builder = Builder(engine.graph, dormant)
    builder.gradient(problem)
    plan = Plan(engine.graph, tuple(builder.operations))
    counted = all(isinstance(o, PlannedEvaluation | Total) for o in plan.operations)

    def draw(stream: Stream) -> Any:
        batch = engine._feed(stream)
        return wide_batch(batch) if wide else batch

    engine._feed.begin()
    try:
        parameters = {p: trainable(p, evaluator.parameters) for p in engine.graph.problems}
        made: list[tuple[Step, Took]] = []

        def attempt() -> Outcome:
            block = Transaction(evaluator, engine._interrupts, None)
            with costs(evaluator) as cost, block as transaction, scaled(engine.loss_scale):
                step = Step(
                    engine.graph, evaluator, parameters, plan, dormant, draw, engine.seed_of,
                    transaction, Care(),
                )  # fmt: skip
                made.append((step, cost))
                return step.run()

        outcome = engine._failures.attempt(attempt)
        step, cost = made[-1]
        loss = float(outcome.metrics[f"{engine.graph.labels[problem]}/loss"])
        backwards = plan.backwards if counted else None
        yield Run(dense(outcome.gradients[problem]), loss, cost, backwards, step)
    finally:
        engine._feed.give_back()


@contextmanager
def unchanged(engine: Engine) -> Iterator[Callable[[], None]]:
    """Put generators, and what the functions can reach, back after a block.

    A step that has not made its first check before makes it after, and says what it has to say.

    Args:
        engine: whose functions are called.

    Yields:
        What puts back the latter, for use in the middle of the block.
    """
    evaluator, nodes = engine._evaluator, engine.graph.nodes
    loaders = [s.loader for n in nodes for s in n.streams]  # from which a batch stays drawn
    modules = [[(s.name, evaluator.bindings[s].module) for s in evaluator.bound(n)] for n in nodes]
    around = [Surroundings(n.fn, m, loaders) for n, m in zip(nodes, modules, strict=True)]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    dtype = torch.get_default_dtype()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    graph = engine.graph
    checked = engine._checked and not engine._ownership.changed()
    told: tuple[dict[Any, Any], ...] = (graph.methods, graph.notes, graph.stacks)
    before: list[dict[Any, Any]] = [dict(held) for held in told]

    def put_back() -> None:
        for surroundings in around:
            surroundings.put_back()

    try:
        yield put_back
    finally:
        put_back()
        if not checked:
            engine._checked = False
            engine._plans.clear()
            for held, content in zip(told, before, strict=True):
                held.clear()
                held.update(content)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_default_dtype(dtype)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

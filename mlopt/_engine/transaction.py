"""Commits: the one place where parameters, optimizer state and buffers change or are undone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._errors import CapabilityWarning
from .._evaluation.copies import overlaps
from .._evaluation.point import Evaluator
from .._graph.node import Node
from .._graph.problem import PerStep, Problem
from .._graph.trained import trainable
from .._tensors import Tensors
from .._variable import Variable
from ..hypergrad.interface import AbstractHypergradient
from ..optim import rule_of
from .gradients import given
from .holding import Holdings
from .interrupts import Deferral
from .memory import Memory
from .optimizer_step import optimizer_step

__all__ = ["News", "Transaction", "resting", "say_what_stays"]


_NOTHING: Mapping[Problem, Tensors] = {}


class News(NamedTuple):
    """What is held by now that was not held before.

    Attributes:
        tensors: of optimizers and schedulers, and whose they are.
        buffers: of modules, whose they are, and what was in their places.
        spoilt: whose numbers on the host are not finite that were.
    """

    tensors: Sequence[tuple[Node, Tensor]] = ()
    buffers: Sequence[tuple[Node, Tensor, Tensor | None]] = ()
    spoilt: Node | None = None


class Transaction:
    """A block that changes everything that a step changes, or, if it raises, nothing.

    Before something is changed for the first time, a copy of it is kept. From the first commit that
    nothing but commits follows, an interrupt waits for the end of the block.

    Args:
        evaluator: of the graph; it knows the modules' buffers.
        interrupts: of the engine.
        holdings: of the engine; None if no copies are kept, without which `undo` can do nothing.
        resting: what the steps of problems place though it is not trained, by key.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        interrupts: Deferral,
        holdings: Holdings | None,
        resting: Mapping[Problem, Tensors] = _NOTHING,
    ) -> None:
        self.evaluator, self.copies = evaluator, holdings is not None
        self.resting = resting
        self.updated: set[Problem] = set()
        self.memory = Memory(holdings or Holdings())
        self.interrupts = interrupts
        self._grad = torch.is_grad_enabled()  # of the caller
        self.scheduled = False
        self._versions: dict[int, int] = {}  # of tensors, before schedulers have stepped
        self._kept: dict[Node, dict[Any, list[Any]]] = {}  # with the buffers of each

    def update(
        self,
        problem: Problem,
        parameters: Tensors,
        gradient: Tensors,
        norm: Tensor,
        written: Mapping[Any, list[Tensor]],
    ) -> None:
        """Let the problem's optimizer step with this gradient, and commit its buffers.

        Args:
            problem: whose variables are updated.
            parameters: by key.
            gradient: by key; what else the optimizer holds gets None, and is left alone.
            norm: the gradient's 2-norm, for clipping.
            written: buffers to commit.
        """
        if problem not in self._kept:
            self.keep(problem)
        if problem.clip is not None and gradient:
            factor = torch.clamp(problem.clip / (norm + 1e-6), max=1.0)
            clipped = torch._foreach_mul(list(gradient.values()), factor)
            gradient = dict(zip(gradient, clipped, strict=True))
        gradient = given(parameters, gradient, self.evaluator.bent)
        assert problem.optimizer is not None
        # Frozen ones and those of a layer that is gone get None: a gradient of an earlier step, or
        # of another program, would move them.
        own = {id(parameter): gradient.get(key) for key, parameter in parameters.items()}
        for group in problem.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = own.get(id(parameter))
        if isinstance(problem.optimizer, torch.optim.SparseAdam):  # it takes no others
            for parameter in parameters.values():
                if parameter.grad is not None and not parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.to_sparse(1)
        self.updated.add(problem)
        optimizer_step(problem.optimizer)
        if written:
            self.evaluator.commit(written)

    def place(self, problem: Problem, parameters: Tensors, trajectory: Any) -> None:
        """Commit where a problem's steps have led: its variables, optimizer state and buffers.

        Args:
            problem: whose variables are updated.
            parameters: by key.
            trajectory: the steps' end.
        """
        self.keep(problem)
        assert problem.optimizer is not None
        self.updated.add(problem)
        places = {**self.resting.get(problem, {}), **parameters}
        keys = [k for k in places if k in trajectory.value]
        if keys:  # none is where all have been frozen
            with torch.no_grad():
                torch._foreach_copy_([places[k] for k in keys], [trajectory.value[k] for k in keys])
        rule_of(problem.optimizer, problem.name).write(
            problem.optimizer, parameters, trajectory.state
        )
        self.evaluator.commit(trajectory.written)

    def write(self, node: Node, written: Mapping[Any, list[Tensor]]) -> None:
        """Commit what a signal with memory wrote there."""
        self.keep(node)
        self.evaluator.commit(written)

    def schedule(self, problem: Problem, *loss: float) -> None:
        """Let a problem's scheduler step.

        Args:
            problem: whose scheduler.
            loss: what it is told, if it asks.
        """
        scheduler = problem.scheduler
        scheduler = scheduler.scheduler if isinstance(scheduler, PerStep) else scheduler
        if self.copies:
            self.memory.keep((problem, scheduler, "scheduler"))
            self.scheduled = True
            for t in self.memory.tensors():
                self._versions.setdefault(id(t), _version(t))
        scheduler.step(*loss)

    def spoilt_by_schedulers(self) -> Node | None:
        """Look at what schedulers have written, where any has stepped: `scheduled`.

        Numbers cost nothing; a tensor that one has written, or made, is waited for.

        Returns:
            Whose is not finite, and was; None if all are well.
        """
        new, spoilt = self.memory.news()
        written = {id(t) for t in self.memory.tensors() if _version(t) != self._versions.get(id(t))}
        if spoilt is None and (new or written):
            flags = self.memory.spoilt(new, written)
            spoilt = next((node for node, _, flag in flags if flag), None)
        return spoilt

    def news(self) -> News:
        """What optimizers, schedulers and modules hold by now that they did not hold before."""
        tensors, spoilt = self.memory.news()
        buffers = [
            (node, t, old)
            for node, kept in self._kept.items()
            for source, before in kept.items()
            for t, old in zip(self.evaluator.bindings[source].held(), before, strict=True)
            if t is not None and t is not old and not self.memory.knows(t)
        ]
        if buffers and tensors:  # those of a module that an optimizer leads to are still a module's
            of_modules = {id(t) for _, t, _ in buffers}
            tensors = [(node, t) for node, t in tensors if id(t) not in of_modules]
        return News(tensors, buffers, spoilt)

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is not None:
                self.undo()
                torch.set_grad_enabled(self._grad)  # should a block's own end have been interrupted
        finally:
            self.interrupts.end()

    def undo(self) -> None:
        """Put everything back."""
        self.interrupts.begin()
        try:
            self._undo()
        except BaseException:
            self._undo()  # what interrupted it is not raised a second time
            raise
        if lost := self.memory.lost:
            named = ", ".join(f"{path} ({error})" for path, error in lost.items())
            warnings.warn(
                f"A step has failed, and all is put back but a part of {named}.",
                CapabilityWarning,
                stacklevel=2,
            )

    def _undo(self) -> None:
        for kept in self._kept.values():
            for source, held in kept.items():
                self.evaluator.hold(source, held)
        self.memory.restore()
        self.updated.clear()

    def keep(self, *nodes: Node) -> None:
        """Remember all that committing these nodes may change.

        Args:
            nodes: problems, and signals with memory.
        """
        if not self.copies:
            return
        bindings = self.evaluator.bindings
        owned: list[tuple[Node, Any, str]] = []
        tensors: list[tuple[Node, Tensor]] = []
        held: dict[Node, dict[Any, list[Any]]] = {}
        for node in nodes:
            if node in self._kept:
                continue
            sources: tuple[Any, ...] = (node,)
            if isinstance(node, Problem):
                sources = node.over
                owned.append((node, node.optimizer, "optimizer"))
                tensors += [(node, t) for t in self.resting.get(node, {}).values()]
            held[node] = {}
            for source in sources:  # the buffers of its variables, or its memory
                if source in bindings and bindings[source].buffers:
                    held[node][source] = buffers = bindings[source].held()
                    # Those that repeat their own memory are never written.
                    tensors += [(node, t) for t in buffers if t is not None and not overlaps(t)]
        if held:
            self.memory.keep(*owned, tensors=tensors)
            self._kept.update(held)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def resting(
    problem: Problem,
    method: AbstractHypergradient,
    named: Callable[[Variable], dict[str, Tensor]] = Variable.named_parameters,
) -> Tensors:
    """What a problem does not train of its variables, where it follows what its steps start at."""
    if not (method.traced and method.reads):
        return {}
    trained = trainable(problem, named)
    starts = {id(p) for v in method.reads for p in named(v).values()}
    return {
        (v, name): p
        for v in problem.over
        for name, p in named(v).items()
        if (v, name) not in trained and id(p) not in starts
    }


def say_what_stays(closed: Mapping[str, str]) -> None:
    """What a step that fails later cannot put back, by the path to it; nothing where all can."""
    if closed:
        named = [f"{path} ({kind})" for path, kind in closed.items()]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        warnings.warn(
            f"If a step fails, all is put back but what is inside of {', '.join(named[:5])}"
            f"{more}: an optimizer's or scheduler's containers, tensors, generators and "
            "attributes are copied, and objects in these two deep.",
            CapabilityWarning,
            stacklevel=5,
        )

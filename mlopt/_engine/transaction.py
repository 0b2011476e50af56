"""Commits: the one place where parameters, optimizer state and buffers change or are undone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._evaluation.point import Evaluator
from .._graph.problem import Problem
from .._tensors import Tensors, clone
from ..optim import rule_of

__all__ = ["Transaction"]


class Transaction:
    """The updates of one step.

    Updates before the step's decision keep copies of what they change, so that `undo` leaves every
    level as it was; later ones need none.

    Args:
        evaluator: of the graph; it knows the modules' buffers.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.updated: set[Problem] = set()
        self._before: dict[Problem, _Snapshot] = {}

    def update(
        self,
        problem: Problem,
        parameters: Tensors,
        gradient: Tensors,
        norm: Tensor,
        written: Mapping[Any, list[Tensor]],
        *,
        undoable: bool,
    ) -> None:
        """Let the problem's optimizer step with this gradient, and commit its buffers.

        Args:
            problem: whose variables are updated.
            parameters: by key.
            gradient: by key; a parameter without one keeps None, and the optimizer leaves it alone.
            norm: the gradient's 2-norm, for clipping.
            written: buffers to commit.
            undoable: whether `undo` may be called later.
        """
        if undoable and problem not in self._before:
            self._before[problem] = _Snapshot(problem, self.evaluator)
        if problem.clip is not None and gradient:
            factor = torch.clamp(problem.clip / (norm + 1e-6), max=1.0)
            clipped = torch._foreach_mul(list(gradient.values()), factor)
            gradient = dict(zip(gradient, clipped, strict=True))
        for key, parameter in parameters.items():
            parameter.grad = gradient.get(key)
        assert problem.optimizer is not None
        problem.optimizer.step()
        self.evaluator.commit(written)
        self.updated.add(problem)

    def place(
        self, problem: Problem, parameters: Tensors, trajectory: Any, *, undoable: bool
    ) -> None:
        """Commit where a problem's steps have led: its variables, optimizer state and buffers.

        Args:
            problem: whose variables are updated.
            parameters: by key.
            trajectory: the steps' end.
            undoable: whether `undo` may be called later.
        """
        if undoable and problem not in self._before:
            self._before[problem] = _Snapshot(problem, self.evaluator)
        assert problem.optimizer is not None
        keys = [k for k in parameters if k in trajectory.value]
        with torch.no_grad():
            torch._foreach_copy_([parameters[k] for k in keys], [trajectory.value[k] for k in keys])
        rule_of(problem.optimizer, problem.name).write(
            problem.optimizer, parameters, trajectory.state
        )
        self.evaluator.commit(trajectory.written)
        self.updated.add(problem)

    def undo(self) -> None:
        """Put everything back."""
        for snapshot in self._before.values():
            snapshot.restore()
        self._before.clear()
        self.updated.clear()


class _Snapshot:
    def __init__(self, problem: Problem, evaluator: Evaluator) -> None:
        assert problem.optimizer is not None
        self.optimizer, self.evaluator = problem.optimizer, evaluator
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.grads = [p.grad for p in self.parameters]
        with torch.no_grad():
            self.values = clone(self.parameters)
            self.state = _copied(self.optimizer.state)
        self.groups = [
            {k: copy.deepcopy(v) for k, v in g.items() if _restorable(k, v)}
            for g in self.optimizer.param_groups
        ]
        self.buffers = {
            v: clone(evaluator.bindings[v].held()) for v in problem.over if v in evaluator.bindings
        }

    def restore(self) -> None:
        with torch.no_grad():
            if self.parameters:
                torch._foreach_copy_(self.parameters, self.values)
        for p, grad in zip(self.parameters, self.grads, strict=True):
            p.grad = grad
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        for group, options in zip(self.optimizer.param_groups, self.groups, strict=True):
            for name in [k for k, v in group.items() if _restorable(k, v) and k not in options]:
                del group[name]
            group.update(options)
        self.evaluator.commit(self.buffers)


def _copied(state: Mapping[Tensor, dict[str, Any]]) -> dict[Tensor, dict[str, Any]]:
    """An optimizer's state by parameter, its tensors copied together."""
    held = {(p, k): v for p, s in state.items() for k, v in s.items() if isinstance(v, Tensor)}
    copies = dict(zip(held, clone(list(held.values())), strict=True))
    return {
        p: {k: copies[p, k] if (p, k) in copies else copy.deepcopy(v) for k, v in s.items()}
        for p, s in state.items()
    }


def _restorable(name: str, value: Any) -> bool:
    """Options of a group that an optimizer may count in; tensors, as of a learning rate, stay."""
    return name != "params" and not isinstance(value, Tensor)

"""An oracle for nested levels: the cascade, written as it is defined.

It knows the order of the list of nodes, how they were declared, and a kind of solution for each
problem; nothing of sweeps, cotangents or plans. Two definitions call each other:

    evaluate(i, w, above)   F_i where its own variable is w, every higher variable is as `above`
                            says, and every lower one is x_j = s_j(all that stand above j here)
    s_j(above)              by the kind of problem j:
        Fixed               w_j, the standing value
        Steps(k, lr)        k updates from w_j along d/dw evaluate(j, w, above)
        Optimum             where d/dw evaluate(j, w, above) = 0
        Stopped(kind)       the value of the kind, as a constant

Signals are functions of what is seen in the same evaluation, wherever they stand in the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from compare import rounding
from optimizer_steps import carried_step
from oracles import _parts, _present, _rejoin, drawing
from points import Point, as_leaves, derivatives, detached, filled, flat, newton_step, shaped
from torch import Tensor

import mlopt

#: The residual of an optimum that is found: a total gradient of five levels, of numbers around one,
#: is 5,000 roundings away from zero.
SETTLED = rounding(5000)

__all__ = ["SETTLED", "Fixed", "Nested", "Optimum", "Steps", "Stopped", "settle"]


@dataclass(frozen=True)
class Fixed:
    """The standing value."""


@dataclass(frozen=True)
class Steps:
    """Some steps of the problem's optimizer, or plain gradient steps if lr is given."""

    k: int = 1
    lr: float | None = None


@dataclass(frozen=True)
class Optimum:
    """Where the total derivative of the problem's objective vanishes."""


@dataclass(frozen=True)
class Stopped:
    """The value of a kind, without its gradient."""

    kind: Any


class Nested:
    """Objectives of nested problems, and their total derivatives.

    Args:
        nodes: as given to the engine, lowest first.
        kinds: the kind of each problem that others look ahead through; `Fixed()` for the rest.
        batch: (node) -> the batch of a node with data.
        seed: (node) -> the seed of its evaluations, if it draws.
    """

    def __init__(
        self,
        nodes: list[Any],
        kinds: dict[Any, Any],
        batch: Callable[[Any], Any] | None = None,
        seed: Callable[[Any], int] | None = None,
    ) -> None:
        self.nodes, self.kinds, self.batch, self.seed = list(nodes), kinds, batch, seed
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.problems = [n for n in self.nodes if isinstance(n, mlopt.Problem)]
        self.owner = {v: p for p in self.problems for v in p.over}
        self.curvature: dict[Any, Tensor] = {}
        # Without steps, every value that an evaluation sees is a standing one: only how it
        # responds has to be found. With steps, optima below them are displaced and solved for.
        self.at_home = not any(_kind(kinds.get(p), Steps) for p in self.problems)

    def hypergradient(self, problem: Any) -> dict[Any, dict[str, Tensor | None]]:
        """The total derivative of a problem's objective, all higher values as they stand."""
        loss, leaves = self.evaluate(problem)
        out: dict[Any, dict[str, Tensor | None]] = {v: {} for v in problem.over}
        for (v, name), g in derivatives(loss, leaves, create_graph=False).items():
            out[v][name] = g
        return out

    def evaluate(self, problem: Any, at: Point | None = None) -> tuple[Tensor, Point]:
        """The objective as a function of the leaves: the standing value, or the point `at`.

        Only the first derivative is right. At another point than the standing one every optimum
        is searched anew.
        """
        leaves = as_leaves(self.standing(problem) if at is None else at)
        home = self.at_home and at is None
        return _Scope(self, _Standing(self), problem, leaves, 1, home).objective(), leaves

    def standing(self, problem: Any) -> Point:
        """The constants that the problem's optimizer would change."""
        held = None
        if problem.optimizer is not None:
            held = [p for group in problem.optimizer.param_groups for p in group["params"]]
        return {
            (v, name): p.detach()
            for v in problem.over
            for name, p in v.named_parameters().items()
            if p.requires_grad and (held is None or any(p is q for q in held))
        }

    # Solutions.

    def solve(self, problem: Any, scope: _Scope) -> Point:
        """x_j as a function of all that stands above it in the scope."""
        return self._solve(problem, self.kinds.get(problem, Fixed()), scope)

    def _solve(self, problem: Any, kind: Any, scope: _Scope) -> Point:
        if isinstance(kind, Stopped):
            return detached(self._solve(problem, kind.kind, scope))
        if isinstance(kind, Steps):
            return self._steps(problem, kind, scope)
        if isinstance(kind, Optimum):
            return self._optimum(problem, scope)
        assert isinstance(kind, Fixed), kind
        return self.standing(problem)

    def _steps(self, problem: Any, kind: Steps, scope: _Scope) -> Point:
        w = self.standing(problem)
        parameters = {(v, n): p for v in problem.over for n, p in v.named_parameters().items()}
        state: dict[Any, Any] = {}
        for _ in range(kind.k):
            w, gradient = self._gradient(problem, w, scope, scope.order + 1)
            for key, g in gradient.items():
                if g is None:
                    continue
                if kind.lr is not None:
                    w[key] = w[key] - kind.lr * g
                else:
                    w[key] = carried_step(
                        problem.optimizer, parameters[key], w[key], g, state, kind.k
                    )
        return w

    def _optimum(self, problem: Any, scope: _Scope) -> Point:
        """The solution with as many derivatives as the scope asks for.

        With H the Hessian at the solution x, a constant, each step  w <- w - g(w, above) / H  makes
        one more derivative of w in `above` right: w = x + O(d^n) gives w = x + O(d^(n+1)), where d
        is how far `above` is displaced. For that g has to be right to order n: that is, the n-th
        step evaluates with n + 1 derivatives.
        """
        if scope.home:
            w = self.standing(problem)
            if problem not in self.curvature:
                gradient, hessian = self.slope(problem, w, _Standing(self), True)
                assert gradient.abs().max() <= 10 * SETTLED, f"{problem.name} is not settled"
                self.curvature[problem] = hessian
            inverse = torch.linalg.inv(self.curvature[problem])
        else:
            w, hessian = self._search(problem, _Held(scope))
            inverse = torch.linalg.inv(hessian)
        for n in range(1, scope.order + 1):
            w, gradient = self._gradient(problem, w, scope, n + 1)
            w = shaped(flat(w) - inverse @ flat(filled(gradient, w)), w)
        return w

    def _search(self, problem: Any, above: Any) -> tuple[Point, Tensor]:
        """The solution and the Hessian there, as constants, by Newton's method on values."""
        w, residual = self.standing(problem), float("inf")
        for _ in range(100):
            gradient, hessian = self.slope(problem, w, above, False)
            w = newton_step(w, gradient, hessian)
            last, residual = residual, gradient.abs().max().item()
            if stands(residual, last):
                return w, hessian
        raise AssertionError(f"{problem.name}: no optimum found, residual {residual}")

    def slope(self, problem: Any, w: Point, above: Any, home: bool) -> tuple[Tensor, Tensor]:
        """The first and second total derivative of an objective at a point, as constants."""
        leaves = as_leaves(w)
        loss = _Scope(self, above, problem, leaves, 2, home).objective()
        gradient = flat(filled(derivatives(loss, leaves), leaves))
        rows = [flat(filled(derivatives(g, leaves, create_graph=False), leaves)) for g in gradient]
        return gradient.detach(), torch.stack(rows)

    def _gradient(
        self, problem: Any, w: Point, scope: _Scope, order: int
    ) -> tuple[Point, dict[Any, Tensor | None]]:
        """A point and d/dw evaluate(problem, w, scope) there, as functions of the scope."""
        w = {k: t if t.requires_grad else t.detach().requires_grad_() for k, t in w.items()}
        loss = _Scope(self, scope, problem, w, order, scope.home).objective()
        return w, derivatives(loss, w)

    def call(self, node: Any, given: dict[Any, Any]) -> Any:
        """A node's function of what it reads, by source."""
        arguments: list[Any] = []
        for argument in node.arguments:
            values = [_present(read.source, given[read.source]) for read in argument.reads]
            arguments.append(values if argument.is_list else values[0])
        if node.streams:
            assert self.batch is not None
            arguments.append(self.batch(node))
        if self.seed is None:
            return node.fn(*arguments)
        with drawing(self.seed(node)):
            return node.fn(*arguments)


class _Standing:
    """What stands above a problem that no other looks ahead through: constants."""

    def __init__(self, oracle: Nested) -> None:
        self.oracle = oracle

    def point(self, problem: Any) -> Point:
        return self.oracle.standing(problem)


class _Held:
    """The values of a scope as constants."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    def point(self, problem: Any) -> Point:
        return detached(self.scope.point(problem))


class _Scope:
    """One evaluation: every value that is seen in it, each found once and only when it is read.

    Args:
        oracle: solves the lower problems.
        above: says what the higher problems' values are.
        problem: whose objective is evaluated.
        own: the value of its variables.
        order: how many derivatives of the objective have to be right.
        home: whether all values are the standing ones.
    """

    def __init__(
        self, oracle: Nested, above: Any, problem: Any, own: Point, order: int, home: bool
    ) -> None:
        self.oracle, self.above, self.problem, self.own = oracle, above, problem, own
        self.order, self.home = order, home
        self.solved: dict[Any, Point] = {}
        self.signals: dict[Any, Any] = {}

    def objective(self) -> Tensor:
        result = self.oracle.call(self.problem, self._given(self.problem))
        return result[0] if isinstance(result, tuple) else result

    def point(self, problem: Any) -> Point:
        if problem is self.problem:
            return self.own
        if self.oracle.place[problem] > self.oracle.place[self.problem]:
            return self.above.point(problem)
        if problem not in self.solved:
            self.solved[problem] = self.oracle.solve(problem, self)
        return self.solved[problem]

    def _given(self, node: Any) -> dict[Any, Any]:
        given: dict[Any, Any] = {}
        for read in node.reads:
            value = self._value(read.source)
            if read.stopped:
                value = _rejoin(value, detached(_parts(value)))
            given[read.source] = value
        return given

    def _value(self, source: Any) -> Any:
        if isinstance(source, mlopt.Signal):
            if source not in self.signals:
                self.signals[source] = self.oracle.call(source, self._given(source))
            return self.signals[source]
        point = self.point(self.oracle.owner[source])
        return {n: point.get((source, n), p.detach()) for n, p in source.named_parameters().items()}


def settle(nodes: list[Any], kinds: dict[Any, Any], **hooks: Any) -> float:
    """Move the standing values of all `Optimum` problems to where each of them is stationary.

    One Newton step for each of them, from the lowest to the highest, over and over: where the lower
    ones are not settled yet, what the higher ones see of them is right to first order all the same.

    Returns:
        The largest residual that is left; not above `SETTLED`.

    Raises:
        AssertionError: there is no such point nearby.
    """
    oracle = Nested(nodes, kinds, **hooks)
    optima = [p for p in oracle.problems if _kind(kinds.get(p), Optimum)]
    worst = dict.fromkeys(optima, float("inf"))
    for _ in range(200):
        moved = False
        for p in optima:
            w = oracle.standing(p)
            gradient, hessian = oracle.slope(p, w, _Standing(oracle), oracle.at_home)
            oracle.curvature[p] = hessian
            last, worst[p] = worst[p], gradient.abs().max().item()
            if not stands(worst[p], last):
                moved = True
                for key, t in newton_step(w, gradient, hessian).items():
                    w[key].copy_(t)  # shares its memory with the parameter
        if not moved:  # so that all residuals are those of where they stand
            return max(worst.values(), default=0.0)
    raise AssertionError(f"not settled: residuals of {worst} are left")


def stands(residual: float, last: float) -> bool:
    """Whether Newton's steps have come as far as rounding lets them: near, and no nearer."""
    return residual <= rounding(10) or (residual <= SETTLED and residual > last / 2)


def _kind(kind: Any, wanted: type) -> bool:
    """Whether a kind is of a type, or stops one that is."""
    return isinstance(kind.kind if isinstance(kind, Stopped) else kind, wanted)

"""Oracles: naive programs that share no code with the engine.

`Composed` writes the look-aheads of a list of problems as one differentiable program. It knows the
order of the list and the methods, and how a function was declared; nothing of sweeps or cotangents.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from compare import agree, exact, rounding
from optimizer_steps import optimizer_step
from torch import Tensor, nn

import mlopt

Values = dict[str, Tensor]


def materialise(module: nn.Module, tensors: Values) -> nn.Module:
    """A copy of a module with plain tensors for parameters, tied ones in every place."""
    names = {id(p): name for name, p in module.named_parameters()}
    twins: dict[nn.Module, nn.Module] = {}  # a part that occurs twice stays one

    def twin_of(part: nn.Module) -> nn.Module:
        if part not in twins:
            twins[part] = twin = copy.copy(part)  # not deep: that takes most of a test's time
            twin._modules = {k: m and twin_of(m) for k, m in part._modules.items()}
            twin._buffers = {k: b if b is None else b.clone() for k, b in part._buffers.items()}
            twin._parameters = {k: None for k, p in part._parameters.items() if p is None}
            for key, p in part._parameters.items():
                if p is not None:
                    setattr(twin, key, tensors[names[id(p)]])
        return twins[part]

    return twin_of(module)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed torch's default generators for a block, and put them back as they were.

    One by one: `torch.manual_seed` formats a stack trace for each device that is not there, which
    takes a hundred times as long.
    """
    generators = [torch.default_generator]
    if torch.cuda.is_available():
        torch.cuda.init()
        generators += torch.cuda.default_generators
    states = [g.get_state() for g in generators]
    try:
        for g in generators:
            g.manual_seed(seed)
        yield
    finally:
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)


class Composed:
    """The step map of a list of problems: every lower value written as a function of the upper one.

    Args:
        nodes: as given to the engine.
        default: the engine's method.
        batch: (node) -> the batch of a node with data.
        seed: (node) -> the seed of its evaluations, if it draws.
    """

    def __init__(
        self,
        nodes: list[Any],
        default: Any = None,
        batch: Callable[[Any], Any] | None = None,
        seed: Callable[[Any], int] | None = None,
    ) -> None:
        self.nodes, self.default, self.batch, self.seed = list(nodes), default, batch, seed
        # solutions that it does not know, by the method's type: (method, problem, w, dF/dw) -> s
        self.formulas: dict[type, Callable[..., dict[Any, Tensor]]] = {}
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.owner = {v: p for p in nodes if isinstance(p, mlopt.Problem) for v in p.over}

    def method(self, problem: Any) -> Any:
        return problem.hypergrad or self.default or mlopt.Frozen()

    def trainable(self, problem: Any) -> list[tuple[Any, str, Tensor]]:
        """(variable, name, parameter) of what the problem's optimizer would change."""
        held = None
        if problem.optimizer is not None:
            held = [p for group in problem.optimizer.param_groups for p in group["params"]]
        return [
            (v, name, p)
            for v in problem.over
            for name, p in v.named_parameters().items()
            if p.requires_grad and (held is None or any(p is q for q in held))
        ]

    def hypergradient(self, upper: Any) -> dict[Any, dict[str, Tensor | None]]:
        """The derivative of the upper objective composed with all look-aheads below it."""
        loss, leaves = self.loss(upper)
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        out: dict[Any, dict[str, Tensor | None]] = {v: {} for v in upper.over}
        for (v, name), g in zip(leaves, grads, strict=True):
            out[v][name] = g
        return out

    def loss(self, upper: Any) -> tuple[Tensor, dict[Any, Tensor]]:
        """The upper objective as a function of the upper variables, which are its leaves."""
        leaves = self._leaves(upper)
        seen = self._climb(upper, leaves)
        return self._objective(upper, seen(upper)), leaves

    def solution(self, problem: Any) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
        """A problem's solution as a function of all that it reads, which are the leaves."""
        given = self._climb(problem, {})(problem)
        own = {(v, name) for v, name, _ in self.trainable(problem)}
        leaves: dict[Any, Tensor] = {}
        for source, value in given.items():
            parts = _parts(value)
            for name, t in parts.items():
                if source not in problem.over and t.is_floating_point():
                    parts[name] = leaves[source, name] = t.detach().requires_grad_()
            given[source] = _rejoin(value, parts)
        solved = self._solve(problem, given)
        return {(v, n): solved[v][n] for v, n in own}, leaves

    # The program.

    def _leaves(self, problem: Any) -> dict[Any, Tensor]:
        return {
            (v, name): p.detach().clone().requires_grad_() for v, name, p in self.trainable(problem)
        }

    def _climb(self, last: Any, leaves: dict[Any, Tensor]) -> Callable[[Any], dict[Any, Any]]:
        """Compute everything below `last`; returns (node) -> what it reads, by source."""
        standing: dict[Any, Values] = {
            v: {name: leaves.get((v, name), p.detach()) for name, p in v.named_parameters().items()}
            for v in self.owner
        }
        solved: dict[Any, Values] = {}
        signals: dict[Any, Any] = {}

        def seen(node: Any) -> dict[Any, Any]:
            out: dict[Any, Any] = {}
            for argument in node.arguments:
                for read in argument.reads:
                    if isinstance(read.source, mlopt.Signal):
                        value = signals[read.source]
                    elif self.place[self.owner[read.source]] < self.place[node]:
                        value = solved[read.source]
                    else:
                        value = standing[read.source]
                    if read.stopped:
                        value = _rejoin(value, {k: t.detach() for k, t in _parts(value).items()})
                    out[read.source] = value
            return out

        for node in self.nodes[: self.place[last]]:
            if isinstance(node, mlopt.Signal):
                signals[node] = self._call(node, seen(node))
            else:
                solved.update(self._solve(node, seen(node)))
        return seen

    def _solve(self, problem: Any, given: dict[Any, Any]) -> dict[Any, Values]:
        own = self._leaves(problem)
        given = dict(given)
        for v in problem.over:
            given[v] = {k: own.get((v, k), t.detach()) for k, t in given[v].items()}
        method = self.method(problem)
        moved = dict(own)
        if not isinstance(method, mlopt.Frozen):
            loss = self._objective(problem, given)
            grads = torch.autograd.grad(
                loss, list(own.values()), create_graph=True, allow_unused=True
            )
            inner = method.method if isinstance(method, mlopt.StopGradient) else method
            if formula := self.formulas.get(type(inner)):
                moved = formula(inner, problem, own, dict(zip(own, grads, strict=True)))
                grads = ()
            for (v, name, p), g in zip(self.trainable(problem), grads, strict=bool(grads)):
                w = own[v, name].detach()
                if g is None:
                    moved[v, name] = w
                elif inner.lr is not None:
                    moved[v, name] = w - inner.lr * g
                else:
                    moved[v, name] = optimizer_step(problem.optimizer, p, w, g)
        if not isinstance(method, mlopt.OneStep) and type(method) not in self.formulas:
            moved = {k: t.detach() for k, t in moved.items()}
        return {
            v: {k: moved.get((v, k), t.detach()) for k, t in given[v].items()} for v in problem.over
        }

    def _objective(self, problem: Any, given: dict[Any, Any]) -> Tensor:
        result = self._call(problem, given)
        return result[0] if isinstance(result, tuple) else result

    def _call(self, node: Any, given: dict[Any, Any]) -> Any:
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


def whole_step(
    method: Any, problem: Any, own: dict[Any, Tensor], grads: dict[Any, Tensor | None]
) -> dict[Any, Tensor]:
    """One update of the real optimizer, differentiated as a whole: the solution of `Sama`."""
    del method
    moved: dict[Any, Tensor] = {}
    for (v, name), w in own.items():
        g, p = grads[v, name], v.named_parameters()[name]
        stays = g is None
        moved[v, name] = (
            w.detach() if stays else optimizer_step(problem.optimizer, p, w.detach(), g, held=False)
        )
    return moved


def optimum(
    method: Any, problem: Any, own: dict[Any, Tensor], grads: dict[Any, Tensor | None]
) -> dict[Any, Tensor]:
    """w as the optimum: its value, with the derivative of the implicit function theorem."""
    del problem
    damping = method.damping
    used = [(k, w, g) for (k, w), g in zip(own.items(), grads.values(), strict=True)
            if g is not None]  # fmt: skip
    flat = torch.cat([g.flatten() for _, _, g in used])
    rows = [
        torch.cat(
            [
                torch.zeros_like(w).flatten() if h is None else h.flatten()
                for (_, w, _), h in zip(
                    used,
                    torch.autograd.grad(
                        x, [w for _, w, _ in used], retain_graph=True, allow_unused=True
                    ),
                    strict=True,
                )
            ]
        )
        for x in flat
    ]
    hessian = torch.stack(rows).detach() + damping * torch.eye(len(flat)).to(flat)
    shift = torch.linalg.solve(hessian, flat - flat.detach())
    moved = {k: w.detach() for k, w in own.items()}
    for (k, w, _), part in zip(used, shift.split([w.numel() for _, w, _ in used]), strict=True):
        moved[k] = w.detach() - part.view_as(w)
    return moved


def _present(source: Any, value: Any) -> Any:
    if isinstance(source, mlopt.Signal):
        return value
    return value[""] if isinstance(source.value, Tensor) else materialise(source.value, value)


def _parts(value: Any) -> Values:
    if isinstance(value, Tensor):
        return {"": value}
    if isinstance(value, dict):
        return dict(value)
    return {str(i): t for i, t in enumerate(value)}


def _rejoin(value: Any, parts: Values) -> Any:
    if isinstance(value, Tensor):
        return parts[""]
    return dict(parts) if isinstance(value, dict) else tuple(parts.values())


def sweep_rounding(problems: int, operations: int = 50, condition: float = 100.0) -> float:
    """What rounding may make of a hypergradient that goes through so many problems below the top.

    Args:
        problems: solved one after another on the longest way.
        operations: of one objective on the longest way from an input to its value. It is
            differentiated twice, and each time the way is gone forth and back: 4 times as many.
        condition: the terms that are summed on the way are so many times as large as their sum.
    """
    return rounding(4 * operations * (problems + 1), condition)


def moved_rounding(old: Tensor, step: Tensor) -> float:
    """What rounding leaves of a step that is found as new values minus old ones.

    Eight roundings: decay, momentum and rate of an update, its sum with the old value, the
    difference.
    """
    return rounding(8, condition=1 + (old.norm() / step.norm()).item())


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The 2-norm of the difference over that of what is expected."""
    size = torch.linalg.vector_norm(expected).item()
    return torch.linalg.vector_norm(found - expected).item() / size if size else float("inf")


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str = "") -> None:
    """Relative to the size of what is expected; exactly zero where zero is expected."""
    exact(found, expected, tolerance, what=what)


def assert_same_gradients(
    found: dict[Any, dict[str, Tensor]],
    expected: dict[Any, dict[str, Tensor | None]],
    bound: float,
    what: str = "",
    why: str = "",
) -> None:
    """Every tensor by itself; one that nothing depends on may be absent or zero.

    By `exact`, or by `near` where a reason is given.
    """
    assert set(found) == set(expected), what
    for v, tensors in expected.items():
        assert set(found[v]) <= set(tensors), f"{what} {v.name}"
        for name, e in tensors.items():
            f = found[v].get(name)
            label = f"{what} {v.name}.{name}"
            if e is None or not e.any():
                assert f is None or not f.any(), f"{label}: expected nothing"
            else:
                assert f is not None, f"{label}: absent"
                agree(f, e, bound, why, what=label)

"""`Implicit`: its law at the optimum, curvature, guards, and turns that run until it is solved."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from case_graphs import module, parameter, tensor
from compare import exact, near, rounding
from oracles import moved_rounding, relative_error, sweep_rounding
from torch import nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt import (
    CG,
    Alternate,
    Central,
    ConvergenceError,
    ConvergenceWarning,
    Dense,
    GaussNewton,
    GraphError,
    Implicit,
    Neumann,
    Nystrom,
    OneStep,
    Until,
)

CPU = torch.device("cpu")


def bend(f: Any) -> Any:
    """The dense Hessian, reverse over reverse: torch's forward mode warns of its own parts."""
    return torch.func.jacrev(torch.func.grad(f))


def classifier(method: Any, net: nn.Module | None = None, rounds: Any = None) -> dict[str, Any]:
    """A regularised classifier, its penalty, and what is validated."""
    W = mlopt.Variable(net or module(nn.Linear(4, 3), CPU, 1), "w")
    R = mlopt.Variable(parameter(CPU, 2, 3, 4), "r")
    x, y = tensor(CPU, 3, 30, 4), torch.arange(30) % 3
    u, v = tensor(CPU, 4, 30, 4), torch.arange(30) % 3

    @mlopt.problem(over=W, given=[R], hypergrad=method,
                   optimizer=torch.optim.SGD(W.parameters(), lr=0.3))  # fmt: skip
    def fit(w, r):
        z = mlopt.outputs(w(x))
        penalty = sum((r.exp() * p**2).sum() for p in w.parameters() if p.shape == r.shape)
        return cross_entropy(z, y) + penalty / 2 + 0.05 * sum((p**2).sum() for p in w.parameters())

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), lr=1.0))
    def score(r, w):
        return cross_entropy(w(u), v) + 0.01 * (r**2).sum()

    schedule = Alternate((fit, rounds), (score, 1)) if rounds else None
    return {"W": W, "R": R, "fit": fit, "score": score, "x": x,
            "engine": mlopt.Engine([fit, score], schedule=schedule)}  # fmt: skip


def solve(w: dict[str, Any], steps: int = 12) -> None:
    """The lower problem to its optimum, by dense Newton steps of the test's own."""
    names = [n for n, _ in w["W"].value.named_parameters()]
    shapes = [p.shape for p in w["W"].parameters()]
    call = torch.func.functional_call

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([s.numel() for s in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}

        class Bound(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return call(w["W"].value, values, (x,))

            def parameters(self, recurse: bool = True) -> Any:
                return iter(values.values())

        return w["fit"].fn(Bound(), w["R"].value.detach())

    flat = torch.cat([p.detach().flatten() for p in w["W"].parameters()])
    for _ in range(steps):
        g = torch.func.grad(loss)(flat)
        flat = flat - torch.linalg.solve(bend(loss)(flat), g)
    with torch.no_grad():
        for p, part, s in zip(w["W"].parameters(), flat.split([s.numel() for s in shapes]), shapes,
                              strict=True):  # fmt: skip
            p.copy_(part.view(s))


def resolved(w: dict[str, Any]) -> torch.Tensor:
    """The hypergradient by central differences of the re-solved problem.

    Newton's steps start 1e-5 away from the optimum: the first leaves 1e-10, and the second nothing.
    """
    r = w["R"].value
    start, out, h = r.detach().clone(), torch.zeros_like(r), 1e-5
    for i in range(r.numel()):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                r.copy_(start)
                r.view(-1)[i] += sign * h
            solve(w, 3)
            values.append(w["score"].fn(r.detach(), w["W"].value).item())
        out.view(-1)[i] = (values[0] - values[1]) / (2 * h)
    with torch.no_grad():
        r.copy_(start)
    solve(w, 3)
    return out


@cache
def optimum_and_gradient() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of the classifier, whatever the method."""
    w = classifier(Implicit(Dense()))
    solve(w)
    optimum = [p.detach().clone() for p in w["W"].parameters()]
    return optimum, resolved(w)


#: Differences of radius 1e-5 of a value of 50 operations, at most a thousand times its derivative.
RESOLVED = rounding(50, condition=1000) / 1e-5


@pytest.mark.parametrize(
    ("method", "bound"),
    [
        (Implicit(CG(60, 1e-12)), RESOLVED),
        (Implicit(Dense()), RESOLVED),
        (Implicit(Neumann(2000)), RESOLVED),
        (Implicit(Nystrom(15, damping=1e-8)), RESOLVED + 1e-8 / 0.1),
        (Implicit(CG(60, 1e-12), curvature=GaussNewton()), RESOLVED),  # the model is linear
        # radius^2 / 6 of a third derivative that is at most a hundred times the first
        (Implicit(CG(60, 1e-9), Central(1e-3)), 100 * 1e-3**2 / 6),
    ],
    ids=str,
)
def test_at_the_optimum(method: Implicit, bound: float) -> None:
    w = classifier(method)
    optimum, expected = optimum_and_gradient()
    with torch.no_grad():
        for p, value in zip(w["W"].parameters(), optimum, strict=True):
            p.copy_(value)
    found = w["engine"].hypergradient(w["score"])[w["R"]][""]
    near(found, expected, bound, why="differences of solutions, and what the method leaves out")


def test_gauss_newton_is_the_formula() -> None:
    """J^T loss'' J + R'' by dense Jacobians, where the model is not linear."""
    net = module(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), CPU, 5)
    w = classifier(Implicit(Dense(), curvature=GaussNewton()), net)
    found = w["engine"].hypergradient(w["score"])[w["R"]][""]
    names, shapes = zip(*((n, p.shape) for n, p in net.named_parameters()), strict=True)
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    r, call = w["R"].value.detach(), torch.func.functional_call

    def model(f: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        parts = f.split([s.numel() for s in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return call(net, values, (x,)).flatten()

    def penalty(f: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        parts = [p.view(s) for p, s in zip(f.split([s.numel() for s in shapes]), shapes,
                                           strict=True)]  # fmt: skip
        return (
            sum((r.exp() * p**2).sum() for p in parts if p.shape == r.shape) / 2
            + 0.05 * (f**2).sum()
        )

    labels = torch.arange(30) % 3
    j = torch.func.jacrev(model)(flat, w["x"])
    bent = bend(lambda z: cross_entropy(z.view(30, 3), labels))(model(flat, w["x"]))
    h = j.T @ bent @ j + bend(penalty)(flat, r)
    u = tensor(CPU, 4, 30, 4)
    c = torch.func.grad(lambda f: cross_entropy(model(f, u).view(30, 3), labels))(flat)
    q = torch.linalg.solve(h, c)
    mixed = torch.func.jacrev(lambda r: torch.func.grad(penalty)(flat, r))(r).flatten(1)
    expected = 0.02 * r - (q @ mixed).view_as(r)
    # 15 parameters; the curvature lies between 0.1 and 10
    exact(found, expected, sweep_rounding(1, condition=1000))
    full = classifier(Implicit(Dense()), net)
    other = full["engine"].hypergradient(full["score"])[full["R"]][""]
    assert relative_error(found, other) > 1e-3  # the model's own curvature is left out


def test_gauss_newton_asks_for_marks() -> None:
    w = classifier(Implicit(curvature=GaussNewton()))
    w["fit"].fn = lambda w_, r: r.sum() + sum((p**2).sum() for p in w_.parameters())
    with pytest.raises(GraphError, match=r"fit: GaussNewton.*mlopt.outputs"):
        w["engine"].hypergradient(w["score"])


def test_until_it_is_solved() -> None:
    tol = 1e-8
    w = classifier(Implicit(CG(60, 1e-12)), rounds=Until(tol, most=5000))
    metrics = w["engine"].step()
    assert metrics["fit/gradient_norm"] <= tol
    assert 10 < metrics["fit/rounds"] < 5000
    again = w["engine"].step()  # the penalty has moved
    assert again["fit/gradient_norm"] <= tol
    assert again["fit/rounds"] < metrics["fit/rounds"]
    capped = classifier(Implicit(), rounds=Until(1e-12, most=7))
    assert capped["engine"].step()["fit/rounds"] == 7


def test_what_is_solved_takes_no_round() -> None:
    w = classifier(Implicit(CG(60, 1e-12)), rounds=Until(1e-6))
    solve(w)
    before = [p.detach().clone() for p in w["W"].parameters()]
    expected = w["engine"].hypergradient(w["score"])[w["R"]][""]
    r = w["R"].value.detach().clone()
    metrics = w["engine"].step()
    assert metrics["fit/rounds"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, w["W"].parameters(), strict=True))
    exact(w["R"].value.detach() - r, -1.0 * expected, moved_rounding(r, expected))


def test_no_curvature() -> None:
    W, R = (mlopt.Variable(parameter(CPU, s, 2), n) for s, n in ((1, "w"), (2, "r")))

    def engine(objective: Any, method: Any) -> tuple[mlopt.Engine, Any]:
        low = mlopt.problem(over=W, given=[R], hypergrad=method)(objective)

        @mlopt.problem(over=R, given=[W])
        def up(r, w):
            return (w * r).sum()

        return mlopt.Engine([low, up]), up

    made, up = engine(lambda w, r: (w * r).sum(), Implicit())
    with pytest.raises(ConvergenceError, match=r"no curvature.*damping"):
        made.hypergradient(up)
    made, up = engine(lambda w, r: (w * r).sum(), Implicit(damping=2.0))
    found = made.hypergradient(up)[R][""]
    exact(found, W.value.detach() - R.value.detach() / 2, rounding(20, condition=10))
    made, up = engine(lambda w, r: -((w - r) ** 2).sum(), Implicit())
    with pytest.warns(ConvergenceWarning, match="curvature"):
        made.hypergradient(up)


def test_bad_options() -> None:
    for option, value in (("solver", "cg"), ("product", None), ("curvature", "gn")):
        with pytest.raises(GraphError, match=f"Implicit\\({option}="):
            Implicit(**{option: value})
    with pytest.raises(GraphError, match="damping must be a number, at least 0"):
        Implicit(damping=-1.0)
    for bad in ({"tol": 0.0}, {"tol": 1e-3, "most": 0}):
        with pytest.raises(GraphError, match="Until"):
            Until(**bad)
    w = classifier(mlopt.Unrolled(2))
    with pytest.raises(GraphError, match=r"Until\(\) cannot end them"):
        mlopt.Engine([w["fit"], w["score"]],
                     schedule=Alternate((w["fit"], Until(1e-3)), (w["score"], 1)))  # fmt: skip


def test_gauss_newton_is_refused_where_it_would_be_differentiated() -> None:
    W, M, A = (mlopt.Variable(parameter(CPU, s, 2), n) for s, n in enumerate("wma"))

    @mlopt.problem(over=W, given=[M], hypergrad=Implicit(curvature=GaussNewton()))
    def low(w, m):
        return (mlopt.outputs(w - m) ** 2).sum()

    @mlopt.problem(over=M, given=[W, A], hypergrad=OneStep(lr=0.1))
    def middle(m, w, a):
        return (w * m * a).sum() + (m**2).sum()

    @mlopt.problem(over=A, given=[M])
    def top(a, m):
        return (a * m).sum()

    with pytest.raises(GraphError, match=r"low: GaussNewton\(\) is not differentiable itself"):
        mlopt.Engine([low, middle, top]).hypergradient(top)

"""What a solver leaves undone is among the metrics, and said once where it is much."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64
from torch import nn

import mlopt
from mlopt import CG, GMRES, Central, ConvergenceWarning, Dense, Implicit, Neumann, Nystrom, OneStep
from mlopt._engine.residuals import LIMIT
from mlopt.hypergrad import derivatives

SIZE = 30
#: Steps that come nowhere near a condition of 1e8.
POOR = {
    "cg": CG(20),
    "gmres": GMRES(5),
    "neumann": Neumann(20),
    "nystrom": Nystrom(10, damping=1e-4),
}


def world(solver: Any, condition: float, nested: bool = False, product: Any = None) -> Any:
    """A quadratic bottom, solved, whose Hessian has eigenvalues from 1 down; and a leader."""
    g = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=F64, generator=g))
    H = basis * torch.logspace(0, -torch.tensor(condition).log10().item(), SIZE, dtype=F64)
    H = H @ basis.T
    r = torch.randn(SIZE, dtype=F64, generator=g)
    W = mlopt.Variable(nn.Parameter(torch.linalg.solve(H, r)), "w")
    M = mlopt.Variable(nn.Parameter(r.clone()), "m")
    T = mlopt.Variable(nn.Parameter(torch.ones(SIZE, dtype=F64)), "t")

    def sgd(v: Any) -> Any:
        return torch.optim.SGD(v.parameters(), lr=1e-9)

    method = Implicit(solver, product=product or mlopt.Exact())
    R = M if nested else T
    low = mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=method, name="low")(
        lambda w, r: w @ H @ w / 2 - w @ r
    )
    middle = mlopt.problem(
        over=M, given=[W, T], optimizer=sgd(M), hypergrad=OneStep(lr=1e-3), name="middle"
    )(lambda m, w, t: w.sum() + (m * t).sum())
    slope = torch.randn(SIZE, dtype=F64, generator=g)
    top = mlopt.problem(over=T, given=[M if nested else W], optimizer=sgd(T), name="top")(
        lambda t, w: slope @ w + (t**2).sum()
    )
    if not nested:
        T.value.data = r.clone()
    entries = [low, middle, top] if nested else [low, top]
    return mlopt.Engine(entries), top, H, slope


def said(run: Any) -> list[str]:
    """The warnings of a call, which are all of one kind."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(issubclass(w.category, ConvergenceWarning) for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("solver", POOR)
def test_it_is_said_once_by_a_step_and_by_a_hypergradient(solver: str) -> None:
    name = type(POOR[solver]).__name__
    engine, top, *_ = world(POOR[solver], 1e8)
    (text,) = said(lambda: engine.hypergradient(top))
    assert text.startswith(f"low: {name}(")
    assert "relative residual" in text
    assert "Dense() where it fits" in text
    assert not said(lambda: engine.hypergradient(top))
    assert not said(engine.step)
    other, *_ = world(POOR[solver], 1e8)
    assert len(said(other.step)) == 1
    assert not said(other.step)


def test_the_metric_is_the_residual_of_what_was_returned() -> None:
    engine, _, H, slope = world(CG(6), 1e8)
    with pytest.warns(ConvergenceWarning, match="low: CG"):
        metrics = engine.step()
    found = CG(6).solve(lambda v: {"": H @ v[""]}, {"": slope}).value[""]
    residual = torch.linalg.vector_norm(slope - H @ found) / slope.norm()
    exact(metrics["low/residual"], residual, rounding(40 * SIZE, condition=10))
    assert metrics["low/residual"] > LIMIT


@pytest.mark.parametrize("solver", [CG(60, 1e-10), GMRES(60), Dense(), Neumann(400)], ids=repr)
def test_what_is_solved_is_not_spoken_of(solver: Any) -> None:
    for nested in (False, True):
        engine, top, *_ = world(solver, 4.0, nested)
        assert not said(lambda engine=engine, top=top: engine.hypergradient(top))
        assert engine.step()["low/residual"] < LIMIT / 1000


def test_nested_levels_show_the_largest_of_all_their_solves() -> None:
    engine, top, *_ = world(CG(3, 0.0), 1e8, nested=True)
    (text,) = said(lambda: engine.hypergradient(top))
    assert text.startswith("low: CG(")
    assert engine.step()["low/residual"] > LIMIT


def test_players_in_equilibrium_share_one() -> None:
    V = [mlopt.Variable(nn.Parameter(torch.zeros(8, dtype=F64)), n) for n in "uvt"]
    turn = torch.diag(torch.logspace(0, -6, 8, dtype=F64))

    def player(own: Any, other: Any) -> Any:
        return mlopt.problem(
            over=own, given=[other, V[2]], hypergrad=Implicit(GMRES(2)), name=f"p{own.name}"
        )(lambda own, other, t: own @ turn @ (own / 2 + other / 3) - own @ t)

    step = torch.optim.SGD(V[2].parameters(), lr=0.1)
    top = mlopt.problem(over=V[2], given=V[:2], name="top", optimizer=step)(
        lambda t, u, v: (u + 2 * v).sum() + t.sum()
    )
    engine = mlopt.Engine([mlopt.Game([player(*V[:2]), player(*V[1::-1])]), top])
    texts = said(engine.step)
    assert [t.split(":")[0] for t in texts] == ["pu", "pv"]
    assert engine.step()["pu/residual"] == engine.step()["pv/residual"]


def test_a_solver_that_has_warned_itself_is_not_spoken_of_twice() -> None:
    engine, top, *_ = world(CG(), 4.0)
    low = engine.graph.problems[0]
    fn = low.fn
    low.fn = lambda w, r: -fn(w, r)
    (text,) = said(lambda: engine.hypergradient(top))
    assert "negative curvature" in text


@pytest.mark.parametrize("solver", [*POOR.values(), Dense()], ids=repr)
@pytest.mark.parametrize("product", [mlopt.Exact(), Central()], ids=repr)
def test_every_product_is_counted_in_the_plan(solver: Any, product: Any) -> None:
    """The residual takes none that `plan()` does not know, and the engine adds none."""
    engine, _, *_ = world(solver, 1e8, product=product)
    plan = engine.plan()
    before, passes = engine._evaluator.count.copy(), derivatives.backward_passes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        engine.step()
    assert sum((engine._evaluator.count - before).values()) == plan.evaluations
    assert derivatives.backward_passes() - passes == plan.backwards


def test_where_warnings_are_errors_nothing_is_committed() -> None:
    engine, *_ = world(CG(5), 1e8)
    before = [p.detach().clone() for v in engine.graph.variables for p in v.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            engine.step()
    after = [p for v in engine.graph.variables for p in v.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_metric_of_the_users_own_keeps_its_name() -> None:
    engine, *_ = world(Dense(), 4.0)
    low = engine.graph.problems[0]
    fn = low.fn
    low.fn = lambda w, r: (fn(w, r), {"residual": torch.tensor(7.0)})
    assert engine.step()["low/residual"] == 7.0

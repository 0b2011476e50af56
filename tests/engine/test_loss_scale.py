"""One loss scale for the whole graph: it changes nothing, and small gradients do not vanish."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from cases import GRAPHS
from compare import kills, near
from engine.bursts import same, state
from evaluation.low_precision import World
from small import F64, batches, bilevel, sgd
from torch import Tensor, nn

import mlopt
from mlopt import (
    CG,
    GMRES,
    Central,
    Exact,
    GaussNewton,
    Implicit,
    Neumann,
    Nystrom,
    OneSided,
    OneStep,
    Sama,
    Unrolled,
    ZerothOrder,
)
from mlopt.hypergrad.derivatives import backward_passes

METHODS = {
    "exact": OneStep(),
    "central": OneStep(product=Central()),
    "one-sided": OneStep(product=OneSided()),
    "cg": Implicit(CG(10), damping=1.0),
    "gmres": Implicit(GMRES(5), damping=1.0),
    "neumann": Implicit(Neumann(5), damping=1.0),
    "nystrom": Implicit(Nystrom(4, damping=3.0), damping=1.0),
    "central, cg": Implicit(CG(5), Central(), damping=1.0),
    "unrolled": Unrolled(3),
    "recomputed": Unrolled(4, recompute=True),
    "sama": Sama(product=Exact()),
    "zeroth order": ZerothOrder(OneStep(lr=0.1), samples=2),
}


def scaled_run(engine: mlopt.Engine, size: float | None, steps: int = 2) -> dict[str, Any]:
    engine._failures.size = size
    for _ in range(steps):
        engine.step()
    return state(engine)


@pytest.mark.filterwarnings("ignore:.*Nystrom:mlopt.ConvergenceWarning")
@pytest.mark.parametrize("nested", [False, True], ids=["staged", "nested"])
@pytest.mark.parametrize("name", METHODS)
def test_the_scale_changes_nothing(name: str, nested: bool) -> None:
    """A power of two rounds nothing, however often it goes in and out."""
    middle = OneStep(product=Central()) if name == "central" else OneStep()
    if nested and name == "zeroth order":
        pytest.skip("it is no method for a lower problem of nested levels")
    found, expected = (
        scaled_run(World(METHODS[name], F64, middle if nested else None).engine(), size)
        for size in (2.0**10, None)
    )
    assert same(found, expected)


def plain_sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("product", [Exact(), Central()], ids=str)
def test_it_changes_nothing_of_any_graph(graph: str, product: Any) -> None:
    def run(size: float | None) -> Any:
        case = GRAPHS[graph](torch.device("cpu"), lambda: OneStep(product=product), plain_sgd)
        return scaled_run(mlopt.Engine(case.nodes), size)

    assert same(run(2.0**12), run(None))


@pytest.mark.parametrize(
    "play",
    [mlopt.games.Simultaneous(), mlopt.games.Joint(2), mlopt.games.Extragradient()],
    ids=str,
)
def test_it_changes_nothing_of_a_game(play: Any) -> None:
    def run(size: float | None) -> Any:
        X, Y, R = (
            mlopt.Variable(nn.Parameter(torch.linspace(-0.5, 1.0, 3, dtype=F64) + i), n)
            for i, n in enumerate("xyr")
        )
        method = OneStep() if isinstance(play, mlopt.games.Simultaneous) else None

        @mlopt.problem(over=X, given=[Y, R], optimizer=sgd(X), hypergrad=method)
        def first(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
            return ((x * y).tanh() + r.exp() * x**2 / 3).sum()

        @mlopt.problem(over=Y, given=[X, R], optimizer=sgd(Y), hypergrad=method)
        def second(y: Tensor, x: Tensor, r: Tensor) -> Tensor:
            return ((y - x).cosh() * r.cos()).sum()

        @mlopt.problem(over=R, given=[X, Y], optimizer=sgd(R))
        def top(r: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return (x * y).sum().sin() + r.square().sum()

        return scaled_run(mlopt.Engine([mlopt.Game([first, second], play), top]), size)

    assert same(run(2.0**9), run(None))


def test_it_changes_nothing_of_a_gauss_newton_matrix() -> None:
    found, expected = (scaled_run(marked_world(), size) for size in (2.0**10, None))
    assert same(found, expected)


def marked_world() -> mlopt.Engine:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(8, 3, generator=g, dtype=F64), torch.randn(8, 1, generator=g, dtype=F64)
    W = mlopt.Variable(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), "w")
    for i, p in enumerate(W.parameters()):
        p.data = torch.linspace(-0.5, 0.6 + i / 5, p.numel(), dtype=F64).reshape(p.shape)
    R = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2], dtype=F64)), "r")
    method = Implicit(CG(5), curvature=GaussNewton(), damping=0.5)

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=method)
    def fit(w: Any, r: Tensor) -> Tensor:
        penalty = sum(p.square().sum() for p in w.parameters())
        return (mlopt.outputs(w(x)) - y * r[0].exp()).square().mean() + r[1].exp() * penalty / 9

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R))
    def judge(r: Tensor, w: Any) -> Tensor:
        return (w(x.flip(0)) - y).square().mean() + r.square().sum()

    return mlopt.Engine([fit, judge])


@pytest.mark.parametrize("name", ["exact", "cg", "unrolled", "central"])
def test_small_gradients_do_not_vanish_in_fp16(name: str) -> None:
    """With losses of 1e-5, gradients of single outputs are below the least number of fp16."""

    def run(dtype: torch.dtype, precision: Any, size: Any = "its own") -> Tensor:
        damping = {"cg": Implicit(CG(10), damping=1e-5)}  # H is as small
        world = World(damping.get(name, METHODS[name]), dtype, lr=1e4)
        for problem in (world.train, world.judge):
            problem.fn = shrunk(problem.fn)
        engine = world.engine(precision)
        if size != "its own":
            engine._failures.size = size
        return engine.hypergradient(world.judge)[world.R][""].double()

    expected = run(F64, None)
    why = "roundings of fp16, some dozen of 2^-11 each"
    near(run(torch.float32, "fp16"), expected, 0.03, why=why)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first check sees a gradient that is no slope
        kills(run(torch.float32, "fp16", None), expected, 0.03)


@pytest.mark.parametrize("nested", [False, True], ids=["staged", "nested"])
@pytest.mark.parametrize("name", METHODS)
def test_no_evaluation_and_no_pass_more(name: str, nested: bool) -> None:
    if nested and name == "zeroth order":
        pytest.skip("it is no method for a lower problem of nested levels")

    def needed(precision: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
            engine = World(METHODS[name], middle=OneStep() if nested else None).engine(precision)
            engine.step()
            if precision == "fp16":
                engine._failures.size = 2.0**8
            calls, passes = engine._evaluator.count.copy(), backward_passes()
            engine.step()
        assert engine.skipped is None
        calls = engine._evaluator.count - calls
        return {n.name: c for n, c in calls.items()}, backward_passes() - passes

    plain, low = needed(None), needed("fp16")
    if name in ("cg", "gmres", "central, cg"):  # which stop by their residual
        assert low[0].keys() == plain[0].keys()
    else:
        assert low == plain


def shrunk(fn: Any) -> Any:
    def small(first: Any, *others: Any) -> Tensor:
        return fn(first, *others) * 1e-5

    return small


def test_without_fp16_there_is_none() -> None:
    assert World().engine().loss_scale is None
    assert World().engine("bf16").loss_scale is None
    assert World(signal={"precision": "fp16"}).engine("bf16").loss_scale == 2.0**16
    case = bilevel(train=batches(2))
    assert case.engine().loss_scale is None

"""One loss scale for the whole graph: it changes nothing, and what overflows leaves no trace."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from cases import GRAPHS
from compare import kills, near
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
from mlopt._engine import failures
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


def state(engine: mlopt.Engine) -> dict[str, Any]:
    found = engine.state_dict()
    return {k: found[k] for k in ("variables", "optimizers", "signals", "streams", "steps")}


def tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
    return [t for part in parts for t in tensors(part)]


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return bool(pairs) and all(torch.equal(x, y) for x, y in pairs)


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


class Bursts(torch.autograd.Function):
    """The identity, whose gradient is multiplied by what the batch says."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, by: Tensor) -> Tensor:
        ctx.save_for_backward(by)
        return h.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (by,) = ctx.saved_tensors
        return g * by.to(g.dtype), None


LEVELS = ("train", "learn", "judge")


def bursting(plan: list[str | None], product: Any, **options: Any) -> mlopt.Engine:
    """Three levels in fp16, Adam and momentum among them; the plan says whose gradient bursts."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(16, 4, generator=g), torch.randint(0, 3, (16,), generator=g)
    factors = [torch.tensor([1e30 if level == at else 1.0 for level in LEVELS]) for at in plan]
    stream = mlopt.Stream(factors)
    torch.manual_seed(0)
    W = mlopt.Variable(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), "w"
    )
    V = mlopt.Variable(nn.Linear(4, 3), "v")
    R = mlopt.Variable(nn.Parameter(torch.zeros(3)), "r")
    cross_entropy = nn.functional.cross_entropy
    method = OneStep(product=product)
    momentum = torch.optim.SGD(W.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.Adam(V.parameters(), lr=0.01)

    @mlopt.problem(over=W, given=[R], data=stream, optimizer=momentum, hypergrad=method)
    def train(w: Any, r: Tensor, by: Tensor) -> Tensor:
        h = Bursts.apply(w(x), by[0])
        return (cross_entropy(h, y, reduction="none") * r.exp()[y]).mean()

    @mlopt.problem(over=V, given=[W, R], data=stream, optimizer=adam, hypergrad=method)
    def learn(v: Any, w: Any, r: Tensor, by: Tensor) -> Tensor:
        return (Bursts.apply(v(x), by[1]) - w(x)).square().mean() * r.exp().sum()

    @mlopt.problem(over=R, given=[V], data=stream, optimizer=torch.optim.SGD([R.value], 0.1))
    def judge(r: Tensor, v: Any, by: Tensor) -> Tensor:
        return cross_entropy(Bursts.apply(v(x), by[2]), y) + r.square().sum()

    engine = mlopt.Engine([train, learn, judge], precision="fp16", **options)
    engine._failures.size = 2.0**10  # of which nothing overflows by itself
    return engine


@pytest.mark.parametrize(
    ("product", "schedule"),
    [(p, s) for p in (Exact(), Central()) for s in (mlopt.Simultaneous(), mlopt.UpperFirst())],
    ids=str,
)
def test_overflows_of_any_level_leave_no_trace(
    product: Any, schedule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 of 250 steps overflow in one of three levels; nothing ever is not finite."""
    monkeypatch.setattr(failures, "_GROWTH", 1)
    g = torch.Generator().manual_seed(11)
    order = torch.randperm(250, generator=g)[:100].tolist()
    levels = torch.randint(0, 3, (250,), generator=g).tolist()
    plan = [LEVELS[levels[i]] if i in order else None for i in range(250)]
    engine = bursting(plan, product, schedule=schedule)
    calm = bursting([None] * 250, product, schedule=schedule)
    told: list[mlopt.NonFiniteError] = []
    seen = set()
    scale = engine.loss_scale
    for at in plan:
        before = [t.clone() for t in tensors(state(engine)["variables"])]
        scale = engine.loss_scale
        if at is None:
            calm._failures.size = scale
            calm.step()
        engine.step()
        if at is None and engine.skipped is None:
            assert same(state(engine)["variables"], state(calm)["variables"])
            assert same(state(engine)["optimizers"], state(calm)["optimizers"])
            continue
        assert engine.skipped is not None
        told.append(engine.skipped)
        seen.add(at)
        assert engine.loss_scale == scale / 2
        assert same(before, tensors(state(engine)["variables"]))
        assert all(t.isfinite().all() for t in tensors(state(engine)["optimizers"]))
    assert len(told) >= 100
    assert seen >= set(LEVELS)
    assert all(t.isfinite().all() for t in tensors(state(engine)["variables"]))
    assert engine.skip_nonfinite == 0  # none of them has counted


def test_a_run_tells_of_it_and_goes_on() -> None:
    engine = bursting([None, "judge", None], Exact())
    heard: list[str] = []

    class Hear(mlopt.Callback):
        def on_skip(self, engine: mlopt.Engine, error: mlopt.NonFiniteError) -> None:
            heard.append(str(error))

    engine.run(steps=3, callbacks=[Hear()], progress=False)
    assert engine.loss_scale == 2.0**9
    (said,) = heard
    assert said == (
        "step 1: the gradient of judge is not finite at a loss scale of 1024; nothing was "
        "committed, and the scale is 512 from here on."
    )


def test_at_the_least_scale_a_step_counts_as_ever() -> None:
    engine = bursting(["learn"] * 30, OneStep().product, skip_nonfinite=1)
    for _ in range(10):
        engine.step()
    assert engine.loss_scale == 1.0
    engine.step()
    assert engine.skipped is not None
    with pytest.raises(mlopt.NonFiniteError, match=r"of learn is not finite, the first of this st"):
        engine.step()
    assert engine.loss_scale == 1.0


def test_it_is_doubled_after_many_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_GROWTH", 3)
    engine = bursting([None, None, "train", None, None, None, None], Exact())
    sizes = []
    for _ in range(7):
        engine.step()
        sizes.append(math.log2(engine.loss_scale or 0))
    assert sizes == [10, 10, 9, 9, 9, 10, 10]


def test_it_is_resumed_to_the_bit() -> None:
    plan = [None, "train", None, "judge", None, None]
    whole, begun, resumed = (bursting(plan, Exact()) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(4):
        begun.step()
    saved = copy.deepcopy(begun.state_dict())
    resumed.load_state_dict(saved)
    assert resumed.loss_scale == begun.loss_scale == 2.0**8
    assert resumed._failures.good == begun._failures.good
    for _ in range(2):
        resumed.step()
    assert same(state(resumed), state(whole))
    assert resumed._failures == whole._failures


def test_a_step_that_raises_leaves_it() -> None:
    engine = bursting([None, "train", None], Exact())
    engine.step()
    engine.clock.after_step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="afterwards"):
        engine.step()
    assert (engine.loss_scale, engine._failures.good) == (2.0**10, 1)


def fail(*arguments: Any) -> None:
    raise RuntimeError("afterwards")


def test_a_hypergradient_takes_the_scale_that_it_needs_and_keeps_none() -> None:
    """An overflow of the start scale, and none of smaller ones."""
    world, other = World(), World(dtype=F64)
    for each in (world, other):
        each.judge.fn = grown(each.judge.fn)
    engine = world.engine("fp16")
    found = engine.hypergradient(world.judge)[world.R][""]
    assert engine.loss_scale == 2.0**16
    why = "roundings of fp16, some dozen of 2^-11 each"
    near(found.double(), other.hypergradient(), 0.03, why=why)


def grown(fn: Any) -> Any:
    def large(first: Any, *others: Any) -> Tensor:
        return fn(first, *others) * 1e4

    return large


def test_without_fp16_there_is_none() -> None:
    assert World().engine().loss_scale is None
    assert World().engine("bf16").loss_scale is None
    assert World(signal={"precision": "fp16"}).engine("bf16").loss_scale == 2.0**16
    case = bilevel(train=batches(2))
    assert case.engine().loss_scale is None

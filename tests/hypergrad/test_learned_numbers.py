"""Numbers of an optimizer that are variables: the whole derivative, or a refusal by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from audit.audited import right
from case_graphs import parameter
from compare import exact, kills, rounding
from hypergrad.learned_world import CPU, STEP, World, X, Y, judge, number, sgd, stepped
from torch import nn

import mlopt
from mlopt import Implicit, OneStep, Sama, StopGradient, Unrolled, ZerothOrder
from mlopt._errors import GraphError
from mlopt.games import Joint
from mlopt.hypergrad.interface import Response

PAIRS = [
    ("sgd", "lr"), ("sgd", "weight_decay"), ("sgd", "momentum"), ("sgd", "dampening"),
    ("adam", "lr"), ("adam", "weight_decay"), ("adam", "betas"),
]  # fmt: skip
SERVED = [
    (Unrolled(3), {}),
    (Unrolled(3, recompute=True), {}),
    (Unrolled(3, truncate=2), {"constant": 1}),
    (Unrolled(3, truncate=2, recompute=True), {"constant": 1}),
]
REFUSED = [OneStep(), OneStep(lr=0.1), Sama(), ZerothOrder(), Implicit()]
BOUND = rounding(3 * STEP, condition=20)


@pytest.mark.parametrize(("kind", "option"), PAIRS)
@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize(("method", "how"), SERVED)
def test_steps_are_gone_back_through(
    kind: str, option: str, loss: bool, method: Any, how: dict[str, Any]
) -> None:
    world = World(method, kind, option, loss=loss)
    expected = world.expected(kind, option, 3, loss=loss, **how)
    exact(world.hypergradient(), expected, BOUND)
    kills(0 * expected, expected, BOUND)


@pytest.mark.parametrize(("kind", "option"), PAIRS)
@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize("method", REFUSED)
def test_other_methods_refuse(kind: str, option: str, loss: bool, method: Any) -> None:
    world = World(method, kind, option, loss=loss)
    name = type(method).__name__
    with pytest.raises(GraphError, match=rf"low: {name}\(.*optimizer's {option}, which is h, for"):
        world.engine()


@pytest.mark.parametrize("option", ["weight_decay", "momentum"])
def test_a_number_that_is_zero_is_learned(option: str) -> None:
    world = World(Unrolled(3), "sgd", option, start=0.0)
    # with dampening torch's step jumps where the momentum becomes zero
    world.low.optimizer.param_groups[0]["dampening"] = 0.0
    expected = world.expected("sgd", option, 3, dampening=0.0)
    exact(world.hypergradient(), expected, BOUND)
    kills(0 * expected, expected, BOUND)


def test_what_is_learned_is_used() -> None:
    """Each step takes the number as it stands, and commits the steps that were differentiated."""
    world = World(Unrolled(3), "sgd", "weight_decay")
    engine = world.engine()
    w, h = world.W.tensor.detach().clone(), world.H.tensor.detach().clone()
    h.requires_grad_()
    after = stepped("sgd", "weight_decay", w, h, 3)
    moved = h - 1e-3 * torch.autograd.grad(judge(after), h)[0]
    engine.step()
    exact(world.W.tensor, after, BOUND)
    exact(world.H.tensor, moved, BOUND)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_copy_of_an_engine_reads_its_own_number(recompute: bool) -> None:
    world = World(Unrolled(3, recompute=recompute), "sgd", "lr")
    expected = world.expected("sgd", "lr", 3)
    engine = world.engine()
    engine.hypergradient(world.up)
    other = copy.deepcopy(engine)
    with torch.no_grad():
        world.H.tensor.zero_()
    up = next(p for p in other.graph.problems if p.name == "up")
    exact(other.hypergradient(up)[up.over[0]][""], expected, BOUND)


def test_parts_of_a_module_are_numbers_of_groups() -> None:
    """Two groups with rates of their own, one of them of one dimension, in one variable."""
    A, B = (mlopt.Variable(parameter(CPU, i, 3), n) for i, n in [(5, "a"), (6, "b")])
    rates = nn.ParameterDict({"first": number(0.1), "second": number([0.2])})
    R = mlopt.Variable(rates, "r")
    groups = [
        {"params": [A.tensor], "lr": rates["first"]},
        {"params": [B.tensor], "lr": rates["second"], "weight_decay": rates["first"]},
    ]

    @mlopt.problem(over=[A, B], given=[R], hypergrad=Unrolled(1),
                   optimizer=torch.optim.SGD(groups, lr=1.0, foreach=False))  # fmt: skip
    def low(own, r):
        return judge(own[0]) + judge(own[1])

    @mlopt.problem(over=R, given=[A, B])
    def up(r, a, b):
        return judge(a) * judge(b)

    engine = mlopt.Engine([low, up])
    a, b, first, second = (
        t.detach().clone().requires_grad_()
        for t in (A.tensor, B.tensor, rates["first"], rates["second"])
    )
    da, db = (torch.autograd.grad(judge(t), t)[0] for t in (a, b))
    value = judge(a - first * da) * judge(b - second * (db + first * b))
    expected = torch.autograd.grad(value, [first, second])
    found = engine.hypergradient(up)[R]
    exact([found["first"], found["second"]], list(expected), rounding(2 * STEP, condition=20))
    right(mlopt.audit(engine).worst)


@pytest.mark.parametrize("loss", [False, True])
@pytest.mark.parametrize(("kind", "option"), PAIRS)
def test_the_audit_agrees(kind: str, option: str, loss: bool) -> None:
    report = mlopt.audit(World(Unrolled(3), kind, option, loss=loss).engine())
    right(report.worst)
    assert report.warnings == ()


@pytest.mark.parametrize("loss", [False, True])
def test_the_audit_finds_a_number_that_is_a_constant(
    loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = Response.numbers_at

    def still(response: Response, arguments: Any = None) -> Any:
        return {k: t.detach() for k, t in numbers(response, arguments).items()}

    monkeypatch.setattr(Response, "numbers_at", still)
    report = mlopt.audit(World(Unrolled(3), "sgd", "lr", loss=loss).engine())
    assert report.worst > 0.1


@pytest.mark.parametrize("recompute", [False, True])
def test_a_middle_problem_may_learn_it(recompute: bool) -> None:
    """The top's gradient goes through the middle's step, to what the number comes to."""
    W, H, T = (
        mlopt.Variable(p, n)
        for p, n in [(parameter(CPU, 5, 3), "w"), (number(0.1), "h"), (parameter(CPU, 6, 6), "t")]
    )

    def weighed(w: Any, t: Any) -> Any:
        return (t.sigmoid() * (X @ w - Y) ** 2).mean()

    @mlopt.problem(over=W, given=[H], optimizer=sgd(W.parameters(), lr=H.tensor),
                   hypergrad=Unrolled(2, recompute=recompute))  # fmt: skip
    def low(w, h):
        return ((X @ w - Y) ** 2).mean()

    @mlopt.problem(over=H, given=[W, T], optimizer=torch.optim.SGD(H.parameters(), lr=0.02),
                   hypergrad=OneStep())  # fmt: skip
    def middle(h, w, t):
        return weighed(w, t)

    @mlopt.problem(over=T, given=[W], optimizer=torch.optim.SGD(T.parameters(), lr=0.1))
    def top(t, w):
        return judge(w) + 0 * t.sum()  # it acts through the others alone

    engine = mlopt.Engine([low, middle, top])
    h, t = (v.tensor.detach().clone().requires_grad_() for v in (H, T))
    below = weighed(stepped("sgd", "lr", W.tensor, h, 2), t)
    ahead = h - 0.02 * torch.autograd.grad(below, h, create_graph=True)[0]
    value = judge(stepped("sgd", "lr", W.tensor, ahead, 2))
    expected = torch.autograd.grad(value, t)[0]
    bound = rounding(2 * 2 * 2 * STEP, condition=20)
    exact(engine.hypergradient(top)[T][""], expected, bound)
    if not recompute:
        right(mlopt.audit(engine).worst)


def test_a_play_is_gone_back_through() -> None:
    W, U, H = (
        mlopt.Variable(p, n)
        for p, n in [(parameter(CPU, 5, 3), "w"), (parameter(CPU, 6, 3), "u"), (number(0.1), "h")]
    )

    def first(w: Any, u: Any) -> Any:
        return ((X @ (w + u) - Y) ** 2).mean()

    def second(u: Any, w: Any) -> Any:
        return ((u - w) ** 2).sum()

    @mlopt.problem(over=W, given=[U, H], optimizer=torch.optim.SGD(W.parameters(), lr=H.tensor))
    def one(w, u, h):
        return first(w, u)

    @mlopt.problem(over=U, given=[W], optimizer=torch.optim.SGD(U.parameters(), lr=0.1))
    def other(u, w):
        return second(u, w)

    @mlopt.problem(over=H, given=[W], optimizer=torch.optim.SGD(H.parameters(), lr=0.1))
    def up(h, w):
        return judge(w)

    engine = mlopt.Engine([mlopt.Game([one, other], Joint(2)), up])
    w, u, h = (v.tensor.detach().clone().requires_grad_() for v in (W, U, H))
    for _ in range(2):
        dw = torch.autograd.grad(first(w, u), w, create_graph=True)[0]
        du = torch.autograd.grad(second(u, w), u, create_graph=True)[0]
        w, u = w - h * dw, u - 0.1 * du
    exact(
        engine.hypergradient(up)[H][""],
        torch.autograd.grad(judge(w), h)[0],
        rounding(2 * STEP, condition=20),
    )
    right(mlopt.audit(engine).worst)


# As a constant.


@pytest.mark.parametrize("method", [OneStep(), Sama(), Unrolled(1), StopGradient(OneStep())])
def test_a_stopped_number_is_a_constant(method: Any) -> None:
    W, H = mlopt.Variable(parameter(CPU, 5, 3), "w"), mlopt.Variable(number(0.1), "h")

    @mlopt.problem(over=W, given=[mlopt.stop(H)], hypergrad=method,
                   optimizer=torch.optim.SGD(W.parameters(), lr=H.tensor))  # fmt: skip
    def low(w, h):
        return ((X @ w - Y) ** 2).mean()

    @mlopt.problem(over=H, given=[W], optimizer=torch.optim.SGD(H.parameters(), lr=0.1))
    def up(h, w):
        return h * judge(w)

    found = mlopt.Engine([low, up]).hypergradient(up)[H][""]
    h, w = H.tensor.detach(), W.tensor.detach().clone().requires_grad_()
    ahead = w - h * torch.autograd.grad(((X @ w - Y) ** 2).mean(), w)[0]
    exact(found, judge(ahead.detach()), rounding(STEP, condition=10))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_look_ahead_takes_a_decay_in_a_tensor(kind: str) -> None:
    """A tensor that no problem is over is a constant, whether it requires grad or not."""
    found = []
    for decay in (0.2, torch.tensor(0.2, dtype=torch.float64), number(0.2)):
        W, R = (mlopt.Variable(parameter(CPU, i, 3), n) for i, n in [(5, "w"), (6, "r")])
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        optimizer = kinds[kind](W.parameters(), lr=0.1, weight_decay=decay)

        @mlopt.problem(over=W, given=[R], optimizer=optimizer, hypergrad=OneStep())
        def low(w, r):
            return ((X @ w - Y) ** 2).mean() + (r.exp() * w**2).sum()

        @mlopt.problem(over=R, given=[W])
        def up(r, w):
            return judge(w)

        found.append(mlopt.Engine([low, up]).hypergradient(up)[R][""])
    exact(found[1], found[0], rounding(STEP, condition=10))
    exact(found[2], found[0], rounding(STEP, condition=10))

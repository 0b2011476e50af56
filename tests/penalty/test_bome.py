"""BOME against its formulas written by hand."""

from __future__ import annotations

import pytest
import torch
from compare import exact, kills, near, rounding
from penalty.quadratic import Quadratic
from small import F64, bilevel, seeded
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import LambdaLR

import mlopt
from mlopt._errors import GraphError
from mlopt.penalty import bome

T, LR, ETA = 4, 0.3, 0.5
#: Four steps and two gradients of ten operations each; the barrier's slope, a difference of
#: iterates, is at least a twentieth of them.
BY_HAND = rounding(6 * 10, condition=20)
#: The same of a network of two layers, there and back.
NETWORK = rounding(6 * 2 * 30, condition=20)


def bome_of(case, **options):
    options = {"inner_steps": T, "inner_lr": LR, "eta": ETA, **options}
    return bome(lower=case.lower, upper=case.upper, **options)


def by_hand(case: Quadratic, x: torch.Tensor, y: torch.Tensor, eta: float):
    """The weight and both parts of the direction, from closed-form gradients."""
    rest = case.B @ x + case.c
    z = y
    for _ in range(T):
        z = z - LR * (case.H @ z - rest)
    dF = torch.cat([case.rho * x + case.D @ y, y - case.t + case.D.T @ x])
    dq = torch.cat([-case.B.T @ (y - z), case.H @ y - rest])
    weight = max((eta * dq @ dq - dF @ dq).item() / (dq @ dq).item(), 0.0)
    direction = dF + weight * dq
    return weight, direction[:2], direction[2:]


def test_weight_and_direction_by_hand_at_random_points() -> None:
    eta = 0.1
    case = Quadratic()
    levels = bome_of(case, eta=eta)
    engine = mlopt.Engine(levels.nodes)
    g = torch.Generator().manual_seed(11)
    weights = []
    for _ in range(12):
        x, y = (torch.randn(n, dtype=F64, generator=g) for n in (2, 3))
        case.place(X=x, Y=y)
        weight, dx, dy = by_hand(case, x, y, eta)
        gradients = [engine.hypergradient(p)[v][""] for p, v in _levels(levels, case)]
        exact(gradients, [dx, dy], BY_HAND)
        engine.step()
        exact(engine.signals["multiplier"].item(), weight, BY_HAND)
        exact([case.X.tensor, case.Y.tensor], [x - 0.1 * dx, y - 0.4 * dy], BY_HAND)
        weights.append(weight)
    assert min(weights) == 0.0 < max(weights)  # both sides of the barrier were met


def _levels(levels, case):
    return (levels.upper, case.X), (levels.lower, case.Y)


def test_weight_is_zero_where_the_barrier_has_no_slope() -> None:
    """At the lower solution z = y, so dq = 0 and F alone is followed."""
    case = Quadratic()
    case.place(X=torch.zeros(2, dtype=F64), Y=torch.zeros(3, dtype=F64))
    case.c.zero_()
    levels = bome_of(case)
    engine = mlopt.Engine(levels.nodes)
    gradient = engine.hypergradient(levels.lower)[case.Y][""]
    exact(gradient, -case.t, BY_HAND)
    engine.step()
    assert engine.signals["multiplier"].item() == 0.0


def test_converges_to_the_bilevel_solution() -> None:
    """As the learning rates fall: with fixed ones the weight stays near their inverse."""
    case = Quadratic(lr=(0.3, 0.3))
    for p in (case.lower, case.upper):
        p.scheduler = mlopt.PerStep(LambdaLR(p.optimizer, lambda k: 1 / (1 + 0.1 * k)))
    levels = bome_of(case, inner_steps=10, inner_lr=0.6)
    assert (case.X.tensor - case.optimum()).norm() > 2
    mlopt.Engine(levels.nodes).run(steps=150, progress=False)
    x, y = case.X.tensor.detach(), case.Y.tensor.detach()
    why = "150 steps whose rates fall to a sixteenth: a twentieth of the distance may be left"
    near(x, case.optimum(), 0.1, scale=1.0, why=why)
    near(y, case.solution(x), 0.1, scale=1.0, why=why)
    kills(case.t, case.solution(x), 0.1, scale=1.0)  # where F alone would go


def test_modules_with_dropout_by_hand() -> None:
    """One seed for all evaluations of a step: with the masks of the engine all is as by hand."""
    net = seeded(1, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    case = bilevel(net)
    masks: list[torch.Tensor] = []

    @mlopt.problem(over=case.W, given=[case.A], data=case.train, optimizer=case.lower.optimizer)
    def fit(w, a, batch):
        masks.append((torch.rand(6, 1) < 0.5).double())
        x, y = batch
        return (masks[-1] * (w(x * a.exp()) - y).square()).mean()

    levels = bome(lower=fit, upper=case.upper, inner_steps=T, inner_lr=0.1, eta=ETA)
    engine = mlopt.Engine(levels.nodes)
    gradient = engine.hypergradient(levels.upper)[case.A][""]
    lower = engine.hypergradient(levels.lower)[case.W]
    assert len(masks) > T + 5
    mask = masks[-1]
    assert all(torch.equal(m, mask) for m in masks[-(T + 3) :])
    assert 0 < mask.sum() < 6

    a = case.A.tensor
    names = list(dict(net.named_parameters()))
    y = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def g(values, a):
        x, target = case.train[0]
        out = functional_call(net, dict(zip(names, values, strict=True)), (x * a.exp(),))
        return (mask * (out - target).square()).mean()

    def F(values, a):
        x, target = case.valid[0]
        out = functional_call(net, dict(zip(names, values, strict=True)), (x,))
        return mse_loss(out, target) + 0.01 * a.square().sum()

    z = y
    for _ in range(T):
        steps = torch.autograd.grad(g(z, a.detach()), z)
        z = [(t - 0.1 * d).detach().requires_grad_() for t, d in zip(z, steps, strict=True)]
    z = [t.detach() for t in z]
    dF = torch.autograd.grad(F(y, a), [a, *y])
    dq = torch.autograd.grad(g(y, a) - g(z, a), [a, *y])
    flat_F, flat_q = (torch.cat([t.flatten() for t in d]) for d in (dF, dq))
    weight = max(ETA - (flat_F @ flat_q / (flat_q @ flat_q)).item(), 0.0)
    assert weight > 0
    exact(gradient, dF[0] + weight * dq[0], NETWORK)
    for i, name in enumerate(names, start=1):
        exact(lower[name], dF[i] + weight * dq[i], NETWORK, what=name)


def test_nothing_is_pulled_back_through_the_weight() -> None:
    engine = mlopt.Engine(bome_of(Quadratic()).nodes)
    assert (engine.plan().evaluations, engine.plan().backwards) == (4, 2)


def test_running_statistics_count_a_batch_once() -> None:
    net = seeded(1, lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))
    case = bilevel(net)
    engine = mlopt.Engine(bome_of(case).nodes)
    for n in range(1, 4):
        engine.step()
        assert net[0].num_batches_tracked.item() == n


def test_a_module_over_which_the_upper_level_is() -> None:
    case = Quadratic()
    torch.manual_seed(0)
    layer = nn.Linear(2, 3, bias=False).double()
    L = mlopt.Variable(layer, "layer")
    s = torch.ones(2, dtype=F64)

    @mlopt.problem(over=case.Y, given=[L], optimizer=torch.optim.SGD([case.Y.tensor], lr=0.1))
    def lower(y, layer):
        return case.g(y, s) - y @ layer(s)

    @mlopt.problem(over=L, given=[case.Y], optimizer=torch.optim.SGD(L.parameters(), lr=0.1))
    def upper(layer, y):
        return case.F(s, y) + layer(s).square().sum()

    levels = bome(lower=lower, upper=upper, inner_steps=12, inner_lr=0.6)
    engine = mlopt.Engine(levels.nodes)

    def value() -> float:
        """F at the exact lower solution."""
        with torch.no_grad():
            y = torch.linalg.solve(case.H, case.B @ s + case.c + layer(s))
            return upper(layer, y).item()

    before = value()
    engine.run(steps=50, progress=False)
    assert value() < 0.8 * before
    assert 0 <= engine.step()["upper/gap"] < 0.1


def test_options_out_of_range() -> None:
    case = Quadratic()
    for options, match in (
        ({"inner_steps": 0}, "inner_steps=0"),
        ({"inner_steps": 1.5}, "inner_steps=1.5"),
        ({"inner_lr": 0.0}, "inner_lr=0.0"),
        ({"inner_lr": float("inf")}, "inner_lr=inf"),
        ({"eta": -1.0}, "eta=-1.0"),
    ):
        with pytest.raises(GraphError, match=match):
            bome_of(case, **options)
    case.lower.repeat = 2
    with pytest.raises(GraphError, match="g has repeat=2"):
        bome_of(case)

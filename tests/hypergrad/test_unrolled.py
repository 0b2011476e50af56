"""`Unrolled`: what is committed, and what is differentiated."""

from __future__ import annotations

import copy

import pytest
import torch
from case_graphs import parameter
from compare import exact, near, rounding
from hypergrad.unrolled_world import CPU, OPTIMIZERS, batches, meta, plain_steps, world
from oracles import sweep_rounding
from torch import Tensor, nn

import mlopt
from mlopt import Frozen, OneStep, Unrolled

#: A step: a network of 50 operations, forth and back.
STEP = 2 * 50


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("recompute", [False, True])
def test_all_steps_are_committed(optimizer: str, recompute: bool) -> None:
    """Parameters, running statistics and the optimizer's state are those of a plain loop."""
    w = world(Unrolled(4, recompute=recompute), optimizer)
    expected = plain_steps(w, batches(), optimizer, 4)
    w["engine"].step()
    for (name, found), value in zip(
        w["W"].value.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        exact(found, value, rounding(4 * STEP, condition=10), what=name)
    # the state goes on: four more steps, with the penalty as it is then
    later = plain_steps(w, [], optimizer, 0)
    real = OPTIMIZERS[optimizer](list(later.parameters()))
    real.load_state_dict(copy.deepcopy(w["train"].optimizer.state_dict()))
    r = w["R"].value.detach().clone()
    for batch in batches()[4:8]:
        real.zero_grad()
        w["train"].fn(later, r, w["target"].fn(r, batch), batch).backward()
        real.step()
    w["engine"].step()
    for found, value in zip(w["W"].parameters(), later.parameters(), strict=True):
        exact(found, value, rounding(4 * STEP, condition=10))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradient_is_that_of_the_whole_trajectory(optimizer: str) -> None:
    """Central differences of a plain torch loop over four different batches."""
    w = world(Unrolled(4), optimizer)
    for g in w["train"].optimizer.param_groups:
        if "eps" in g:
            g["eps"] = 0.05  # at 1e-8 a first step is the gradient's sign, lost in rounding
    engine, R = w["engine"], w["R"]
    found = engine.hypergradient(w["valid"])[R][""]

    def value(r: Tensor) -> Tensor:
        net = copy.deepcopy(w["W"].value)
        real = OPTIMIZERS[optimizer](list(net.parameters()))
        for g in real.param_groups:
            g.update({k: 0.05 for k in g if k == "eps"})
        for batch in batches()[:4]:
            real.zero_grad()
            w["train"].fn(net, r, w["target"].fn(r, batch), batch).backward()
            real.step()
        return w["valid"].fn(r, net).detach()

    r, h = R.value.detach(), 1e-5
    for i in range(2):
        e = torch.eye(2, dtype=torch.float64)[i] * h
        expected = (value(r + e) - value(r - e)) / (2 * h)
        near(found[i], expected, rounding(4 * STEP, condition=100) / h, why="rounding / radius")
    again = world(Unrolled(4, recompute=True), optimizer)
    for g in again["train"].optimizer.param_groups:
        if "eps" in g:
            g["eps"] = 0.05
    other = again["engine"].hypergradient(again["valid"])[again["R"]][""]
    exact(other, found, rounding(4 * STEP, condition=10))  # the same operations once more


def test_nothing_is_changed_by_asking() -> None:
    w = world(Unrolled(3), "adam")
    engine, before = w["engine"], copy.deepcopy(w["W"].value.state_dict())
    first = engine.hypergradient(w["valid"])[w["R"]][""]
    again = engine.hypergradient(w["valid"])[w["R"]][""]
    assert torch.equal(first, again)
    after = w["W"].value.state_dict()
    assert all(torch.equal(a, after[name]) for name, a in before.items())
    assert not w["train"].optimizer.state


@pytest.mark.parametrize("recompute", [False, True])
def test_truncated(recompute: bool) -> None:
    """The steps before the last two are constants: the same as starting after them."""
    w = world(Unrolled(5, truncate=2, recompute=recompute), "sgd")
    found = w["engine"].hypergradient(w["valid"])[w["R"]][""]
    later = world(Unrolled(2), "sgd", data=batches()[3:])
    moved = plain_steps(later, batches(), "sgd", 3)
    with torch.no_grad():
        for p, q in zip(later["W"].parameters(), moved.parameters(), strict=True):
            p.copy_(q)
    expected = later["engine"].hypergradient(later["valid"])[later["R"]][""]
    exact(found, expected, sweep_rounding(2, operations=STEP))
    whole = world(Unrolled(5), "sgd")
    full = whole["engine"].hypergradient(whole["valid"])[whole["R"]][""]
    assert (found - full).norm() > 1e-3 * full.norm()


@pytest.mark.parametrize("recompute", [False, True])
def test_from_an_initialisation(recompute: bool) -> None:
    """MAML: the gradient goes to where the steps start, as in a functional loop."""
    w = meta(lambda t: Unrolled(3, init=t, recompute=recompute))
    engine = mlopt.Engine([w["adapt"], w["outer"]])
    found = engine.hypergradient(w["outer"])[w["Theta"]]
    theta = {k: p.detach().clone().requires_grad_() for k, p in w["Theta"].value.named_parameters()}
    call = torch.func.functional_call
    (x, y), (u, v) = batches()[:2]
    now: dict[str, Tensor] = dict(theta)
    for _ in range(3):
        loss = ((torch.tanh(call(w["W"].value, now, (x,))) - y) ** 2).mean()
        grads = torch.autograd.grad(loss, list(now.values()), create_graph=True)
        now = {k: t - 0.3 * g for (k, t), g in zip(now.items(), grads, strict=True)}
    loss = ((torch.tanh(call(w["W"].value, now, (u,))) - v) ** 2).mean()
    grads = torch.autograd.grad(loss, list(theta.values()))
    for name, g in zip(theta, grads, strict=True):
        exact(found[name], g, sweep_rounding(3), what=name)
    engine.step()
    for (_name, t), p in zip(now.items(), w["W"].parameters(), strict=True):
        exact(p, t, rounding(3 * STEP, condition=10))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (nn.Linear(3, 2), r"has torch.float32 \(2, 3\) where w has 'weight', torch.float64"),
        (nn.Linear(2, 2).double(), r"has torch.float64 \(2, 2\) where w has 'weight'"),
        (nn.Linear(3, 2, bias=False).double(), "has nothing where w has 'bias'"),
    ],
)
def test_an_initialisation_of_another_form_is_refused(start: nn.Module, said: str) -> None:
    Theta = mlopt.Variable(start, "theta")
    w = meta(lambda t: Unrolled(3, init=Theta))
    tune = mlopt.problem(over=Theta, given=[w["W"]], name="tune",
                         optimizer=torch.optim.SGD(Theta.parameters(), lr=0.1))(
        lambda theta, w: w.weight.square().sum())  # fmt: skip
    with pytest.raises(mlopt.GraphError, match=rf"adapt: Unrolled\(init=theta\).*{said}"):
        mlopt.Engine([w["adapt"], tune]).step()


def test_dead_units_give_no_nan() -> None:
    """A gradient of exactly zero in Adam, for several steps."""
    W = mlopt.Variable(parameter(CPU, 1, 3), "w")
    R = mlopt.Variable(parameter(CPU, 2, 3), "r")
    alive = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    @mlopt.problem(over=W, given=[R], optimizer=torch.optim.Adam(W.parameters(), lr=0.1),
                   hypergrad=Unrolled(4))  # fmt: skip
    def low(w, r):
        return (alive * (w - r) ** 2).sum()

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), lr=0.1))
    def up(r, w):
        return (w**2).sum() + (r**2).sum()

    engine = mlopt.Engine([low, up])
    found = engine.hypergradient(up)[R][""]
    assert torch.isfinite(found).all()
    assert found[1] == 2 * R.value[1]
    engine.step()
    assert torch.isfinite(W.value).all()


def test_one_unrolled_step_is_the_look_ahead() -> None:
    a, b = world(Unrolled(1), "momentum"), world(OneStep(), "momentum")
    x = a["engine"].hypergradient(a["valid"])[a["R"]][""]
    y = b["engine"].hypergradient(b["valid"])[b["R"]][""]
    exact(x, y, sweep_rounding(1, condition=10))


@pytest.mark.parametrize("recompute", [False, True])
def test_on_one_batch(recompute: bool) -> None:
    """A task's support set: every step sees the step's own batch, which the next step renews."""
    w = world(Unrolled(3, same_batch=True, recompute=recompute), "momentum")
    expected = plain_steps(w, [batches()[0]] * 3, "momentum", 3)
    w["engine"].step()
    for found, value in zip(w["W"].parameters(), expected.parameters(), strict=True):
        exact(found, value, rounding(3 * STEP, condition=10))
    w["train"].optimizer.state.clear()
    expected = plain_steps(w, [batches()[1]] * 3, "momentum", 3)
    w["engine"].step()
    for found, value in zip(w["W"].parameters(), expected.parameters(), strict=True):
        exact(found, value, rounding(3 * STEP, condition=10))


def test_a_default_is_for_problems_that_are_read() -> None:
    """The top makes one ordinary update, and needs no optimizer for its hypergradient alone."""
    w = world(Unrolled(2), "sgd")
    lower, upper = w["train"], w["valid"]
    lower.hypergrad = None
    engine = mlopt.Engine([w["target"], lower, upper], hypergrad=Unrolled(2))
    assert isinstance(engine.graph.methods[upper], Frozen)
    before = w["R"].value.detach().clone()
    gradient = engine.hypergradient(upper)[w["R"]][""]
    engine.step()
    exact(w["R"].value, before - 0.1 * gradient, rounding(4))
    upper.optimizer = None
    mlopt.Engine([w["target"], lower, upper], hypergrad=Unrolled(2)).hypergradient(upper)

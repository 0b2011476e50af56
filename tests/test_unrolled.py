"""`Unrolled`: what is committed, what is differentiated, and what it takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from cases import module, parameter, tensor
from oracles import assert_close
from torch import Tensor, nn

import mlopt
from mlopt import Frozen, GraphError, OneStep, Unrolled

CPU = torch.device("cpu")
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def batches(count: int = 12) -> list[tuple[Tensor, Tensor]]:
    return [(tensor(CPU, 100 + i, 5, 3), tensor(CPU, 200 + i, 5, 2)) for i in range(count)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def world(method: Any, optimizer: str = "momentum", data: Any = None) -> dict[str, Any]:
    """A network on batches, a penalty that is tuned, and a signal made from the same batch."""
    W = mlopt.Variable(module(Net(), CPU, 1), "w")
    R = mlopt.Variable(parameter(CPU, 2, 2), "r")
    data = batches() if data is None else data

    @mlopt.signal(given=[R], data=data)
    def target(r, batch):
        _, y = batch
        return torch.sin(y * r)

    @mlopt.problem(over=W, given=[R, target], data=data, hypergrad=method,
                   optimizer=OPTIMIZERS[optimizer](W.parameters()))  # fmt: skip
    def train(w, r, target, batch):
        x, _ = batch
        return ((w(x) - target) ** 2).mean() + r.exp().sum() * sum(
            (p**2).sum() for p in w.parameters()
        )

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), lr=0.1))
    def valid(r, w):
        x, y = batches(20)[-1]
        return ((w(x) - y) ** 2).mean() + (r**4).sum()

    engine = mlopt.Engine([target, train, valid])
    return {"W": W, "R": R, "train": train, "valid": valid, "engine": engine, "target": target}


def plain_steps(w: dict[str, Any], data: list[Any], optimizer: str, steps: int) -> nn.Module:
    """The same steps by torch's own loop."""
    net = copy.deepcopy(w["W"].value)
    r = w["R"].value.detach()
    real = OPTIMIZERS[optimizer](list(net.parameters()))
    for batch in data[:steps]:
        real.zero_grad()
        w["train"].fn(net, r, w["target"].fn(r, batch), batch).backward()
        real.step()
    return net


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
        assert_close(found.double(), value.double(), 1e-12, name)
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
        assert_close(found.detach(), value.detach(), 1e-12)


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
        assert abs(found[i] - expected) <= 1e-6 * abs(expected), (found, expected)
    again = world(Unrolled(4, recompute=True), optimizer)
    for g in again["train"].optimizer.param_groups:
        if "eps" in g:
            g["eps"] = 0.05
    other = again["engine"].hypergradient(again["valid"])[again["R"]][""]
    assert_close(other, found, 1e-12)


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
    assert_close(found, expected, 1e-10)
    whole = world(Unrolled(5), "sgd")
    full = whole["engine"].hypergradient(whole["valid"])[whole["R"]][""]
    assert (found - full).norm() > 1e-3 * full.norm()


def meta(method: Any, repeat: int = 3) -> dict[str, Any]:
    Theta = mlopt.Variable(module(nn.Linear(3, 2), CPU, 5), "theta")
    W = mlopt.Variable(module(nn.Linear(3, 2), CPU, 6), "w")
    support, query = batches()[0], batches()[1]

    @mlopt.problem(over=W, hypergrad=method(Theta),
                   optimizer=torch.optim.SGD(W.parameters(), lr=0.3))  # fmt: skip
    def adapt(w):
        return ((torch.tanh(w(support[0])) - support[1]) ** 2).mean()

    @mlopt.problem(over=Theta, given=[W], optimizer=torch.optim.SGD(Theta.parameters(), lr=0.1))
    def outer(theta, w):
        return ((torch.tanh(w(query[0])) - query[1]) ** 2).mean()

    return {"Theta": Theta, "W": W, "adapt": adapt, "outer": outer}


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
        assert_close(found[name], g, 1e-10, name)
    engine.step()
    for (_name, t), p in zip(now.items(), w["W"].parameters(), strict=True):
        assert_close(p.detach(), t.detach(), 1e-12)


class Live:
    """The greatest number of bytes that autograd holds at one time."""

    def __init__(self) -> None:
        self.bytes = self.peak = 0
        live = self

        class Held:
            def __init__(self, t: Tensor) -> None:
                self.t, self.size = t, t.numel() * t.element_size()
                live.bytes += self.size
                live.peak = max(live.peak, live.bytes)

            def __del__(self) -> None:
                live.bytes -= self.size

        self.hooks = torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.t)


def test_recomputing_needs_a_fraction_of_the_memory() -> None:
    """1,000 steps in less than an eighth of what storing takes: 2 of 32 segments, in fact."""

    def peak(recompute: bool) -> tuple[int, Tensor]:
        W = mlopt.Variable(parameter(CPU, 1, 4), "w")
        R = mlopt.Variable(parameter(CPU, 2, 4), "r")
        x = tensor(CPU, 3, 16, 4)

        @mlopt.problem(over=W, given=[R], optimizer=torch.optim.SGD(W.parameters(), lr=0.01),
                       hypergrad=Unrolled(1000, recompute=recompute))  # fmt: skip
        def low(w, r):
            return (torch.tanh(x @ w) * (x @ r)).mean() + (w**2).sum()

        @mlopt.problem(over=R, given=[W])
        def up(r, w):
            return (w * r).sum()

        engine = mlopt.Engine([low, up])
        live = Live()
        with live.hooks:
            found = engine.hypergradient(up)[R][""]
        return live.peak, found

    stored, a = peak(False)
    recomputed, b = peak(True)
    assert_close(b, a, 1e-10)
    assert recomputed < stored / 8, (recomputed, stored)


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


def test_costs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """K evaluations for the trajectory, shared by its commit and by the one who reads it."""
    w = world(Unrolled(4), "sgd")
    plan = w["engine"].plan()
    per_node = {n.name: calls for n, (calls, _) in plan.per_node.items()}
    assert per_node == {"target": 4, "train": 4, "valid": 1}
    assert w["engine"].plan().evaluations == 9
    recomputed = world(Unrolled(4, recompute=True), "sgd")["engine"].plan()
    assert {n.name: c for n, (c, _) in recomputed.per_node.items()}["train"] == 8


def test_a_bad_step_commits_nothing() -> None:
    w = world(Unrolled(3), "momentum")
    data = batches()
    data[1] = (data[1][0] * float("nan"), data[1][1])
    w = world(Unrolled(3), "momentum", data=data)
    before = copy.deepcopy(w["W"].value.state_dict())
    with pytest.raises(mlopt.NonFiniteError, match="not finite"):
        w["engine"].step()
    for a, b in zip(before.values(), w["W"].value.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not w["train"].optimizer.state


def test_bad_input() -> None:
    for bad in ({"steps": 0}, {"steps": 1.5}, {"steps": True}, {"steps": 2, "truncate": 0}):
        with pytest.raises(GraphError, match="whole number"):
            Unrolled(**bad)
    with pytest.raises(GraphError, match="init takes a Variable"):
        Unrolled(2, init=nn.Linear(2, 2))  # type: ignore[arg-type]
    v = mlopt.Variable(parameter(CPU, 1, 3), "v")

    def one(method: Any, **options: Any) -> Any:
        return mlopt.problem(over=v, hypergrad=method, **options)(lambda v: (v**2).sum())

    class Own(torch.optim.SGD):
        pass

    with pytest.raises(GraphError, match="Own"):
        mlopt.Engine([one(Unrolled(2), optimizer=Own(v.parameters(), lr=0.1))])
    with pytest.raises(GraphError, match="has none"):
        mlopt.Engine([one(Unrolled(2))])
    sgd = torch.optim.SGD(v.parameters(), lr=0.1)
    with pytest.raises(GraphError, match="clip="):
        mlopt.Engine([one(Unrolled(2), optimizer=sgd, clip=1.0)])
    with pytest.raises(GraphError, match="LBFGS"):
        one(Unrolled(2), optimizer=torch.optim.LBFGS(v.parameters()))
    w = meta(lambda t: Unrolled(2, init=mlopt.Variable(parameter(CPU, 1, 3), "other")))
    with pytest.raises(GraphError, match="no problem of the list is over"):
        mlopt.Engine([w["adapt"], w["outer"]])
    short = mlopt.Variable(parameter(CPU, 1, 3), "short")
    w = meta(lambda t: Unrolled(2, init=short))

    @mlopt.problem(over=short, given=[w["W"]], hypergrad=Frozen(),
                   optimizer=torch.optim.SGD(short.parameters(), lr=0.1))  # fmt: skip
    def top(short, w):
        return (short**2).sum() + sum((p**2).sum() for p in w.parameters())

    with pytest.raises(GraphError, match=r"starts from another variable.*names and shapes"):
        mlopt.Engine([w["adapt"], top]).hypergradient(top)


def test_one_unrolled_step_is_the_look_ahead() -> None:
    a, b = world(Unrolled(1), "momentum"), world(OneStep(), "momentum")
    x = a["engine"].hypergradient(a["valid"])[a["R"]][""]
    y = b["engine"].hypergradient(b["valid"])[b["R"]][""]
    assert_close(x, y, 1e-12)


@pytest.mark.parametrize("recompute", [False, True])
def test_on_one_batch(recompute: bool) -> None:
    """A task's support set: every step sees the step's own batch, which the next step renews."""
    w = world(Unrolled(3, same_batch=True, recompute=recompute), "momentum")
    expected = plain_steps(w, [batches()[0]] * 3, "momentum", 3)
    w["engine"].step()
    for found, value in zip(w["W"].parameters(), expected.parameters(), strict=True):
        assert_close(found.detach(), value.detach(), 1e-12)
    w["train"].optimizer.state.clear()
    expected = plain_steps(w, [batches()[1]] * 3, "momentum", 3)
    w["engine"].step()
    for found, value in zip(w["W"].parameters(), expected.parameters(), strict=True):
        assert_close(found.detach(), value.detach(), 1e-12)


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
    assert_close(w["R"].value.detach(), before - 0.1 * gradient, 1e-12)
    upper.optimizer = None
    mlopt.Engine([w["target"], lower, upper], hypergrad=Unrolled(2)).hypergradient(upper)


def test_recomputed_steps_start_from_the_buffers_of_their_time() -> None:
    """Spectral norm's vectors are read as well as written: later ones give another gradient."""

    def gradient(recompute: bool) -> Tensor:
        torch.manual_seed(3)
        net = torch.nn.utils.parametrizations.spectral_norm(
            torch.nn.Linear(4, 4, dtype=torch.float64), n_power_iterations=1
        )
        x = torch.randn(6, 4, dtype=torch.float64)
        W = mlopt.Variable(net, "w")
        A = mlopt.Variable(torch.nn.Parameter(torch.ones(4, dtype=torch.float64)), "a")

        @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD(W.parameters(), 0.5),
                       hypergrad=Unrolled(5, recompute=recompute))  # fmt: skip
        def train(w, a):
            return (torch.tanh(w(x)) * a).pow(3).mean() - w(x).sin().mean()

        @mlopt.problem(over=A, given=[W])
        def valid(a, w):
            return w(x).square().mean() + a.square().sum()

        return mlopt.Engine([train, valid]).hypergradient(valid)[A][""]

    stored, recomputed = gradient(False), gradient(True)
    assert torch.linalg.vector_norm(stored - recomputed) < 1e-12 * torch.linalg.vector_norm(stored)

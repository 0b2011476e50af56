"""What functions leave behind: put back, each evaluation's own, or refused by name."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from small import F64, assert_same, seeded, sgd, state_of
from torch import Tensor, nn

import mlopt
from mlopt import CapabilityWarning, GraphError

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)
Y = X.sum(1, keepdim=True).sin()


def two_levels(
    low: Callable[..., Any],
    up: Callable[..., Any] | None = None,
    *,
    net: nn.Module | None = None,
    data: Any = None,
    product: Any = None,
) -> mlopt.Engine:
    """The lower objective is called with the network, a tensor and, if there is data, a batch."""
    net = net or seeded(2, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    W = mlopt.Variable(net, "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")
    lower = mlopt.problem(over=W, given=[R], data=data, optimizer=sgd(W), name="low")(low)
    upper = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
        up or (lambda r, w: (w(X) ** 2).mean())
    )
    method = mlopt.OneStep(lr=0.3, product=product or mlopt.Central())
    return mlopt.Engine([lower, upper], hypergrad=method)


def taken(engine: mlopt.Engine) -> Any:
    upper = engine.graph.problems[1]
    (gradient,) = [t for g in engine.hypergradient(upper).values() for t in g.values()]
    engine.run(steps=2, progress=False)
    return gradient, [p.detach().clone() for v in engine.graph.variables for p in v.parameters()]


def plain(w: Any, r: Tensor) -> Tensor:
    return (r.exp() * (w(X) - Y) ** 2).mean()


# Written in place.


def weight(w, r):
    with torch.no_grad():
        w[0].weight.mul_(0.5)
    return plain(w, r)


def weight_data(w, r):
    w[0].weight.data.mul_(0.5)
    return plain(w, r)


def tensor(w, r):
    with torch.no_grad():
        r.add_(1.0)
    return plain(w, r)


def batch_in_place(w, r, batch):
    return (r.exp() * (w(batch[0].sub_(1.0)) - batch[1]) ** 2).mean()


def batch_by_numpy(w, r, batch):
    batch[0].numpy()[:] *= 0.5
    return (r.exp() * (w(batch[0]) - batch[1]) ** 2).mean()


def array(w, r, batch):
    batch[2][:] = 0
    return (r.exp() * (w(batch[0]) - batch[1]) ** 2).mean()


WRITTEN = {
    "a weight": (weight, None),
    "a weight by .data": (weight_data, None),
    "a tensor": (tensor, None),
    "a batch": (batch_in_place, [(X, Y)]),
    "a batch by NumPy": (batch_by_numpy, [(X, Y)]),
    "an array": (array, [(X, Y, np.ones(3))]),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_writing_an_argument_is_refused_before_anything_has_changed(what: str) -> None:
    function, data = WRITTEN[what]
    data = copy.deepcopy(data)
    engine, kept = two_levels(function, data=data), copy.deepcopy(data)
    before = state_of(engine)
    for attempt in (engine.step, lambda: engine.hypergradient(engine.graph.problems[1])):
        with pytest.raises(GraphError, match=r"^low writes .* in place"):
            attempt()
    assert_same(before, state_of(engine))
    for ours, theirs in zip((data or [()])[0], (kept or [()])[0], strict=True):
        assert np.array_equal(ours, theirs)


def test_writing_later_is_refused_in_the_step_where_it_happens() -> None:
    calls = [0]

    def late(w, r, batch):
        calls[0] += 1
        x = batch[0].clone() if calls[0] < 30 else batch[0]
        return (r.exp() * (w(x.sub_(1.0)) - batch[1]) ** 2).mean()

    engine = two_levels(late, data=[(X.clone(), Y)])
    with pytest.raises(GraphError, match="low writes one of its arguments in place"):
        engine.run(steps=30, progress=False)
    assert 0 < engine.steps < 30


def test_a_signals_value_is_not_written() -> None:
    A = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "a")
    s = mlopt.signal(given=[mlopt.stop(A)], name="s")(lambda a: {"x": a * 2})
    p = mlopt.problem(over=A, given=[s], optimizer=sgd(A), name="p")(
        lambda a, s: (a * s["x"].mul_(2)).sum()
    )
    with pytest.raises(GraphError, match="p writes"):
        mlopt.Engine([s, p]).step()


# Containers of their own.


@dataclass
class Pair:
    x: Tensor
    y: Tensor


def popped(w, r, batch):
    y = batch.pop("y")
    return (r.exp() * (w(batch.pop("x")) - y) ** 2).mean()


def cut(w, r, batch):
    y = batch.pop()
    return (r.exp() * (w(batch.pop()) - y) ** 2).mean()


def replaced(w, r, batch):
    batch.x = batch.x * 2
    return (r.exp() * (w(batch.x / 2) - batch.y) ** 2).mean()


CONTAINERS = {
    "dict": (popped, {"x": X, "y": Y}),
    "ordered": (popped, OrderedDict(x=X, y=Y)),
    "list": (cut, [X, Y]),
    "data class": (replaced, Pair(X, Y)),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_each_evaluation_has_containers_of_its_own(kind: str) -> None:
    function, batch = CONTAINERS[kind]
    expected = taken(two_levels(plain))
    assert_same(expected, taken(two_levels(function, data=[batch])))


# Modes.


def noisy() -> nn.Module:
    return seeded(3, lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))


def test_modes_are_put_back() -> None:
    """The upper level looks at its network in eval mode; the lower one still trains it."""

    def looks(r, w):
        w.eval()
        return (w(X) ** 2).mean()

    def careful(r, w):
        w.eval()
        try:
            return (w(X) ** 2).mean()
        finally:
            w.train()

    net, twin = noisy(), noisy()
    expected = taken(two_levels(plain, careful, net=twin))
    assert_same(expected, taken(two_levels(plain, looks, net=net)))
    assert all(part.training for part in net.modules())
    assert torch.equal(net[1].running_mean, twin[1].running_mean)
    assert net[1].num_batches_tracked == 2


def test_modes_are_put_back_after_an_error() -> None:
    net, broken = noisy(), [False]

    def falls(w, r):
        w.eval()
        if broken[0]:
            raise KeyError("mine")
        return plain(w, r)

    engine = two_levels(falls, net=net)
    with pytest.warns(CapabilityWarning, match="buffers of w .* are written only where up reads"):
        engine.step()
    broken[0] = True
    with pytest.raises(KeyError):
        engine.step()
    assert all(part.training for part in net.modules())


# The same evaluation twice.


def mixed(draw: Callable[[], float]) -> Callable[..., Tensor]:
    return lambda w, r: (r.exp() * (w(X * draw()) - Y) ** 2).mean()


DRAWS = {
    "torch": lambda: float(torch.rand(())),
    "NumPy": lambda: float(np.random.beta(0.4, 0.4)),  # noqa: NPY002 - what scripts do
    "Python": random.random,
}


@pytest.mark.parametrize("of", DRAWS)
def test_draws_of_global_generators_are_the_same_again(of: str) -> None:
    engine = two_levels(mixed(DRAWS[of]))
    upper = engine.graph.problems[1]
    states = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    first, second = (engine.hypergradient(upper) for _ in range(2))
    assert_same([*first.values()], [*second.values()])
    engine.step()
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states  # noqa: NPY002
    later = engine.hypergradient(upper)
    assert not torch.equal(*(next(iter(g.values()))[""] for g in (first, later)))


class Recurrent(nn.Module):
    """Its state goes from call to call, in an attribute or in a buffer."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.inside, self.across, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        if buffer:
            self.register_buffer("h", torch.zeros(1, 4))
        else:
            self.h = torch.zeros(1, 4, dtype=F64)

    def forward(self, x: Tensor) -> Tensor:
        h = (self.inside(x) + self.across(self.h)).tanh()
        self.h = h.detach().mean(0, keepdim=True)
        return self.out(h)


def test_state_in_an_attribute_is_refused_and_in_a_buffer_moves_once_a_step() -> None:
    net = seeded(5, lambda: Recurrent(False))
    held = net.h
    with pytest.raises(GraphError, match=r"low: each evaluation writes w\.h,.*register_buffer"):
        two_levels(plain, net=net).step()
    assert net.h is held
    net, twin = (seeded(5, lambda: Recurrent(True)) for _ in range(2))
    engine = two_levels(plain, net=net)
    engine.step()
    twin(X)
    assert torch.equal(net.h, twin.h)


def test_a_generator_of_ones_own_is_said() -> None:
    own = torch.Generator().manual_seed(1)
    engine = two_levels(mixed(lambda: float(torch.rand((), generator=own))))
    with pytest.warns(CapabilityWarning, match="low: evaluated twice at one point"):
        engine.step()


def test_an_attribute_that_nothing_depends_on_is_no_matter() -> None:
    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    two_levels(plain, net=seeded(1, lambda: Watched(3, 1))).step()


# Autocast around a run.


@pytest.mark.parametrize(
    ("schedule", "method"),
    [(mlopt.Simultaneous, mlopt.OneStep()), (mlopt.Sequential, mlopt.Frozen()),
     (mlopt.UpperFirst, mlopt.OneStep())],
)  # fmt: skip
def test_autocast_around_a_run_is_autocast_inside(schedule: type, method: Any) -> None:
    """Torch keeps casts of weights until the outermost block ends; weights change before that."""

    def engine(inside: bool) -> mlopt.Engine:
        net = seeded(2, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))).float()
        W = mlopt.Variable(net, "w")
        R = mlopt.Variable(nn.Parameter(torch.zeros(())), "r")
        x, y = X.float(), Y.float()

        def block() -> Any:
            return torch.autocast("cpu", torch.bfloat16) if inside else nullcontext()

        def low(w, r):
            with block():
                return (r.exp() * (w(x).float() - y) ** 2).mean()

        def up(r, w):
            with block():
                return (w(x).float() ** 2).mean() + r**2

        lower = mlopt.problem(over=W, given=[R], optimizer=sgd(W, 0.5))(low)
        upper = mlopt.problem(over=R, given=[W], optimizer=sgd(R, 0.5))(up)
        return mlopt.Engine([lower, upper], hypergrad=method, schedule=schedule())

    within, around = engine(True), engine(False)
    for _ in range(4):
        within.step()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(4):
            around.step()
    for a, b in zip(within.graph.variables, around.graph.variables, strict=True):
        assert_same(*([p.detach() for p in v.parameters()] for v in (a, b)))

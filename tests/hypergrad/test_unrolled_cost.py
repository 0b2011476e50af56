"""`Unrolled`: what it takes, what it recomputes, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from case_graphs import parameter, tensor
from compare import exact, rounding
from hypergrad.unrolled_world import CPU, batches, meta, world
from torch import Tensor, nn

import mlopt
from mlopt import Frozen, GraphError, Unrolled


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
    """500 steps in less than an eighth of what storing takes: 2 of 22 segments, in fact."""

    def peak(recompute: bool) -> tuple[int, Tensor]:
        W = mlopt.Variable(parameter(CPU, 1, 4), "w")
        R = mlopt.Variable(parameter(CPU, 2, 4), "r")
        x = tensor(CPU, 3, 16, 4)

        @mlopt.problem(over=W, given=[R], optimizer=torch.optim.SGD(W.parameters(), lr=0.01),
                       hypergrad=Unrolled(500, recompute=recompute))  # fmt: skip
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
    # 500 steps, each of 20 operations, forth and back and once more
    exact(b, a, rounding(500 * 4 * 20, condition=5))
    assert recomputed < stored / 8, (recomputed, stored)


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
    with pytest.raises(GraphError, match="init must be a Variable"):
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

    with pytest.raises(GraphError, match=r"starts from another variable.*names, shapes and types"):
        mlopt.Engine([w["adapt"], top]).hypergradient(top)


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
    exact(recomputed, stored, rounding(5 * 4 * 50, condition=4))

"""What is other than before the last step is honoured, or refused by name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, assert_same, bilevel, sgd
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import mlopt
from mlopt import GraphError


class Two(nn.Module):
    """Two parameters of one shape with different parts to play."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0, dtype=F64))
        self.b = nn.Parameter(torch.tensor(3.0, dtype=F64))

    def forward(self) -> Tensor:
        return self.a**2 + 2 * self.b


def test_parameters_that_exchange_their_names() -> None:
    """The same things in the same order, under other keys."""
    net = Two()
    W = mlopt.Variable(net, "w")
    R = mlopt.Variable(nn.Parameter(torch.tensor(0.5, dtype=F64)), "r")
    low = mlopt.problem(over=W, given=[R], optimizer=torch.optim.SGD(W.parameters(), 0.01))(
        lambda w, r: (w() - r) ** 2
    )
    top = mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), 0.1))(
        lambda r, w: (w() - 1) ** 2 + r**2
    )
    engine = mlopt.Engine([low, top], hypergrad=mlopt.OneStep())
    engine.step()
    a, b = net.a, net.b
    del net.a, net.b
    net.b, net.a = a, b
    r, a, b = (t.detach().clone().requires_grad_() for t in (R.tensor, net.a, net.b))
    ga, gb = torch.autograd.grad((a**2 + 2 * b - r) ** 2, (a, b), create_graph=True)
    ahead = (a - 0.01 * ga) ** 2 + 2 * (b - 0.01 * gb)
    (expected,) = torch.autograd.grad((ahead - 1) ** 2 + r**2, r)
    exact(engine.hypergradient(top)[R][""], expected, rounding(100))


def test_a_parameter_given_to_the_neighbour_s_optimizer() -> None:
    a, b, c = (nn.Parameter(torch.ones(1)) for _ in range(3))
    A, C = mlopt.Variable(nn.ParameterList([a, b]), "A"), mlopt.Variable(nn.ParameterList([c]), "C")
    one, two = torch.optim.SGD([a, b], 0.1), torch.optim.SGD([c], 0.1)
    low = mlopt.problem(over=A, optimizer=one)(lambda x: sum((p**2).sum() for p in x))
    top = mlopt.problem(over=C, given=[A], optimizer=two)(
        lambda x, y: sum((p**2).sum() for p in (*x, *y))
    )
    engine = mlopt.Engine([low, top], hypergrad=mlopt.Frozen())
    engine.step()
    two.param_groups[0]["params"].insert(0, one.param_groups[0]["params"].pop())
    with pytest.raises(GraphError, match="not one of C"):
        engine.step()


def test_a_start_counts_in_the_epochs_of_the_run() -> None:
    """Of another stream than before, of which fewer have passed."""
    few, many = [torch.ones(1)] * 2, [torch.ones(1)] * 6
    W, V = (mlopt.Variable(nn.Parameter(torch.ones(1)), n) for n in "wv")
    low = mlopt.problem(over=W, data=few, optimizer=torch.optim.SGD(W.parameters(), 0.1))(
        lambda w, b: (w**2).sum()
    )
    top = mlopt.problem(
        over=V, given=[W], data=many, optimizer=torch.optim.SGD(V.parameters(), 0.1), start=2
    )(lambda v, w, b: ((v - w) ** 2).sum())
    engine = mlopt.Engine([low, top], hypergrad=mlopt.Frozen())
    for _ in range(5):
        engine.step()
    before = V.tensor.detach().clone()
    engine.run(steps=1, epoch=many, progress=False)
    assert engine.epoch < top.start
    assert torch.equal(V.tensor, before)


def test_buffers_of_another_dtype() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    x = [torch.linspace(0, 1, 8, dtype=F64).reshape(4, 2)]
    W = mlopt.Variable(net, "w")
    fit = mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), 0.1))(
        lambda w: w(x[0]).pow(2).mean()
    )
    engine = mlopt.Engine([fit])
    engine.step()
    net.float()
    x[0] = x[0].float()
    (loss, _) = engine.step().values()
    assert loss.dtype is torch.float32


def renamed_parameter(net: Any) -> None:
    net.A["z"] = net.A.pop("q")


def renamed_buffer(net: Any) -> None:
    net.register_buffer("other", net.held)
    del net.held


class Named(nn.Module):
    """Finds what it holds, whatever the names are."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.ParameterDict({n: torch.ones(1, dtype=F64) for n in "pq"})
        self.register_buffer("held", torch.ones(1, dtype=F64))

    def forward(self) -> Tensor:
        return sum(v.sum() for v in (*self.A.values(), *self.buffers()))


@pytest.mark.parametrize("rename", [renamed_parameter, renamed_buffer])
def test_what_has_another_name_is_found(rename: Any) -> None:
    net = Named()
    W = mlopt.Variable(net, "w")
    fit = mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), 0.1), name="fit")(
        lambda w: w() ** 2
    )
    engine = mlopt.Engine([fit])
    engine.step()
    rename(net)
    before = net().item()
    exact(engine.step()["fit/loss"], torch.tensor(before**2, dtype=F64), rounding(10))
    assert net().item() < before


@pytest.mark.parametrize("how", ["another dictionary", "__setstate__", "a copy's attributes"])
def test_parameters_in_another_dictionary(how: str) -> None:
    """The same tensors: values are swapped where the module looks for them."""

    def hypergradient(change: bool) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Linear(2, 1, dtype=F64)
        W = mlopt.Variable(net, "w")
        R = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")
        x = torch.ones(2, 2, dtype=F64)
        low = mlopt.problem(
            over=W, given=[R], optimizer=sgd(W), hypergrad=mlopt.OneStep(), name="low"
        )(lambda w, r: (w(x) ** 2).mean() * r.exp())
        up = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
            lambda r, w: ((w(x) - 1) ** 2).mean()
        )
        engine = mlopt.Engine([low, up])
        engine.step()
        if change and how == "another dictionary":
            net.__dict__["_parameters"] = dict(net._parameters)
        elif change and how == "__setstate__":
            net.__setstate__({**net.__dict__, "_parameters": dict(net._parameters)})
        elif change:
            net.__dict__.update(copy.copy(net).__dict__)
        return engine.hypergradient(up)[R][""]

    assert_same(hypergradient(True), hypergradient(False))


def test_a_compiled_engine_calls_the_function_that_is_given_anew() -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "w")
    fit = mlopt.problem(over=W, optimizer=sgd(W), name="fit")(lambda w: (w**2).sum())
    engine = mlopt.Engine([fit], compile={"backend": "eager"})
    for _ in range(2):
        engine.step()
    fit.fn = lambda w: ((w - 7) ** 2).sum() + 100
    assert float(engine.step()["fit/loss"]) > 100


@pytest.mark.parametrize("method", [mlopt.OneStep(), mlopt.Unrolled(2)])
def test_hooks_of_all_optimizers(method: Any) -> None:
    """A step that is looked ahead does not run them, as it does not run an optimizer's own."""
    case = bilevel(hypergrad=method)
    engine = case.engine()
    engine.step()
    hook = register_optimizer_step_pre_hook(lambda *_: None)
    try:
        with pytest.raises(GraphError, match="step hooks, those of all optimizers"):
            engine.step()
    finally:
        hook.remove()
    engine.step()

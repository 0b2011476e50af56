"""The Gauss-Newton matrix of models whose backwards cannot be differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from small import F64, seeded, sgd
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import mlopt
from mlopt import (
    CapabilityWarning,
    Central,
    Dense,
    Exact,
    GaussNewton,
    GraphError,
    Implicit,
    OneSided,
)
from mlopt.hypergrad.derivatives import backward_passes

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(6, 4).cos()
Y = X.flip(0).sin()
PICKED = torch.arange(24).reshape(6, 4) % 6
#: With the error of a hypergradient of length one: of radius^2, or of radius, times derivatives.
PRODUCTS = {Exact(): 1e-3, Central(1e-4): 1e-6, OneSided(1e-6): 1e-4}


class Detached(torch.autograd.Function):
    """A sine whose backward is a constant to double backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g.detach() * x.detach().cos()


class Once(Detached):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


def attention(x: Tensor) -> Tensor:
    h = x[None, None]
    return F.scaled_dot_product_attention(h, h, h)[0, 0]


def written_out(x: Tensor) -> Tensor:
    return (x @ x.T / x.shape[1] ** 0.5).softmax(1) @ x


Model = Callable[[Tensor], Tensor]

#: (what has no derivative of its backward, the same with all of them)
MODELS: dict[str, tuple[Model, Model]] = {
    "once differentiable": (Once.apply, torch.sin),
    "detached backward": (Detached.apply, torch.sin),
    "in part": (lambda x: Detached.apply(x) + x.tanh(), lambda x: x.sin() + x.tanh()),
    "fused attention": (attention, written_out),
    "bag": (lambda x: F.embedding_bag(PICKED, x, mode="mean"), lambda x: x[PICKED].mean(1)),
}


def loss(z: Tensor) -> Tensor:
    return (z - Y).square().mean() + (z * Y).exp().mean()


def two_levels(
    model: Model, product: Any, loss: Callable[[Tensor], Tensor] = loss, net: Any = None
) -> mlopt.Engine:
    W = mlopt.Variable(net or seeded(3, lambda: nn.Linear(4, 4)), "w")
    R = mlopt.Variable(nn.Parameter(torch.tensor([0.3, -0.2], dtype=F64)), "r")
    method = Implicit(Dense(), product, GaussNewton(), damping=0.1)

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=method)
    def low(w, r):
        z = mlopt.outputs(model(w(X)))
        penalty = sum((p**2).sum() for p in w.parameters())
        return loss(r[0].exp() * z) + 0.1 * r[1].exp() * penalty

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R))
    def top(r, w):
        return (w(X) * Y).sin().mean() + (r**2).sum()

    return mlopt.Engine([low, top])


def found(engine: mlopt.Engine) -> Tensor:
    (tensors,) = engine.hypergradient(engine.graph.problems[-1]).values()
    return tensors[""]


def formula(model: Model) -> Tensor:
    """The hypergradient by dense Jacobians of a model that has all derivatives."""
    net = seeded(3, lambda: nn.Linear(4, 4))
    w = torch.cat([p.detach().flatten() for p in net.parameters()])
    r = torch.tensor([0.3, -0.2], dtype=F64)
    jac, grad = torch.func.jacrev, torch.func.grad

    def linear(w: Tensor) -> Tensor:
        return X @ w[:16].view(4, 4).T + w[16:]

    def below(w: Tensor, r: Tensor) -> Tensor:
        return loss(r[0].exp() * model(linear(w))) + 0.1 * r[1].exp() * (w**2).sum()

    j = jac(lambda w: model(linear(w)).flatten())(w)
    bent = jac(grad(lambda z: loss(r[0].exp() * z.view(6, 4))))(model(linear(w)).flatten())
    h = j.T @ bent @ j + (0.2 * r[1].exp() + 0.1) * torch.eye(20, dtype=F64)
    c = grad(lambda w: (linear(w) * Y).sin().mean())(w)
    return 2 * r - torch.linalg.solve(h, c) @ jac(grad(below), argnums=1)(w, r)


@pytest.mark.filterwarnings("ignore:.*second derivative:mlopt.CapabilityWarning")
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_is_the_formula(kind: str, product: Any) -> None:
    special, plain = MODELS[kind]
    expected = formula(plain)
    exact(found(two_levels(plain, Exact())), expected, rounding(400, condition=100))
    near(found(two_levels(special, product)), expected, PRODUCTS[product],
         why="differences: radius^2, or radius where one-sided")  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_what_takes_the_place_of_double_backward_is_said_once(kind: str) -> None:
    engine = two_levels(MODELS[kind][0], Exact())
    kernel = kind == "fused attention"
    said = "mathematical kernel" if kernel else "central differences for Implicit"
    with pytest.warns(CapabilityWarning, match=rf"^low: .*{said}") as caught:
        engine.step()
    assert len(caught) == 1
    audit = mlopt.audit(two_levels(MODELS[kind][0], Exact()))
    assert any(said in cause.text for cause in audit.causes)


def test_differences_of_the_outputs_ask_for_nothing() -> None:
    for special, plain in MODELS.values():
        for product in (Exact(), Central(), OneSided()):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                two_levels(plain, product).step()
                if product != Exact():
                    two_levels(special, product).step()


@pytest.mark.parametrize("product", [Central(), OneSided()], ids=str)
def test_a_loss_without_second_derivatives_is_refused_by_name(product: Any) -> None:
    bent: dict[str, Callable[[Tensor], Tensor]] = {
        "once_differentiable": lambda z: Once.apply(z).sum() + loss(z),
        "embedding_bag": lambda z: F.embedding_bag(PICKED, z, mode="mean").exp().sum(),
    }
    for said, value in bent.items():
        engine = two_levels(torch.sin, product, value)
        with pytest.raises(GraphError, match=rf"^low: GaussNewton\(\).*{said}.*Hessian\(\)"):
            engine.plan()


@pytest.mark.parametrize("product", [Exact(), Central(), OneSided()], ids=str)
def test_a_plan_counts_it_and_every_step_is_alike(product: Any) -> None:
    engine = two_levels(torch.sin, product)
    count, plan = engine._evaluator.count, engine.plan()
    for _ in range(3):
        before, passes = count.total(), backward_passes()
        engine.step()
        assert count.total() - before == plan.evaluations
        assert backward_passes() - passes == plan.backwards


@pytest.mark.parametrize("train", [True, False])
def test_buffers_are_those_of_each_evaluation(train: bool) -> None:
    """What is solved with goes through one graph again, after evaluations at other weights."""

    def net() -> nn.Module:
        layers = seeded(3, lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
        return layers.double().train(train)

    expected = found(two_levels(torch.sin, Exact(), net=net()))
    for product in (Central(1e-4), OneSided(1e-6)):
        near(found(two_levels(torch.sin, product, net=net())), expected, PRODUCTS[product],
             why="a difference of outputs, and of gradients")  # fmt: skip

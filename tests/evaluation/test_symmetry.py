"""Products by differences take the mixed derivative to be symmetric, or a warning says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from compare import near
from functions import Sine
from small import F64, seeded, sgd
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt import CapabilityWarning, Central, OneSided, OneStep

X = torch.linspace(-1.0, 1.5, 36, dtype=F64).reshape(12, 3)
Y = X.sum(1, keepdim=True).sin() + 1
PRODUCTS = [OneStep(lr=0.1, product=Central()), OneStep(lr=0.1, product=OneSided()), mlopt.Sama(),
            mlopt.Implicit(product=Central(), damping=1.0)]  # fmt: skip

Low = Callable[[Any, Any], Tensor]


class Quantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent


class SineOnce(Sine):
    """The same without second derivatives."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return Sine.backward(ctx, cotangent)


def data(like: Tensor) -> tuple[Tensor, Tensor]:
    return X.to(like.dtype), Y.to(like.dtype)


def losses(w: Any) -> Tensor:
    x, y = data(w.weight)
    return (w(x) - y).square()


def weighted(constant: Callable[[Tensor], Any]) -> Low:
    """Meta-Weight-Net: a sample's weight is a function of its loss, taken as a constant."""

    def low(w: Any, r: Any) -> Tensor:
        each = losses(w)
        return (r(constant(each)) * each).mean()

    return low


def without_gradient(each: Tensor) -> Tensor:
    with torch.no_grad():
        return each * 1


def from_gradient(w: Any, r: Any) -> Tensor:
    """A weight from the length of a gradient, as a constant."""
    each = losses(w)
    (g,) = torch.autograd.grad(each.mean(), w.weight, retain_graph=True)
    return (r(g.square().sum().reshape(1, 1)) * each).mean()


def small_share(w: Any, r: Any) -> Tensor:
    """Of its gradient in w nearly all is smooth."""
    bent = Quantised.apply(w.weight.flatten()[:1]) * r(torch.ones_like(w.bias).reshape(1, 1))
    return 100 * losses(w).mean() + bent.square().sum()


def native(w: Any, r: Any) -> Tensor:
    """Torch's own quantisation, with a small share of the gradient."""
    at = torch.fake_quantize_per_tensor_affine(w.weight.float(), 0.25, 0, -128, 127)
    return 100 * losses(w).mean() + (at.to(w.weight).square() * r(w.bias.reshape(1, 1) * 0)).sum()


def hooked(w: Any, r: Any) -> Tensor:
    """A gradient that a hook scales, with a small share."""
    part = w.weight.sin()
    part.register_hook(lambda g: -g)
    return 100 * losses(w).mean() + (part * r(torch.ones_like(w.bias).reshape(1, 1))).sum()


@cache
def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have it compiled
        return torch.jit.script(constant_of_a_script)


def constant_of_a_script(each: Tensor) -> Tensor:
    return each.detach() * 1


ASYMMETRIC: dict[str, Low] = {
    "detached": weighted(lambda e: e.detach()), "data": weighted(lambda e: e.data),
    "no_grad": weighted(without_gradient), "in place": weighted(lambda e: e.clone().detach_()),
    "under vmap": weighted(torch.func.vmap(lambda e: e.detach())),
    "dispatched": weighted(torch.ops.aten.detach),
    "by a script": weighted(lambda e: scripted()(e)),
    "to integers": weighted(lambda e: (1e4 * e).long().to(e) / 1e4),
    "rounded": weighted(lambda e: (1e4 * e).round() / 1e4),
    "numbers": weighted(lambda e: torch.tensor(e.tolist(), dtype=e.dtype)),
    "a gradient": from_gradient, "small share": small_share, "native": native, "hooked": hooked,
}  # fmt: skip


def shifted(w: Any, r: Any) -> Tensor:
    """The greatest number is subtracted as a constant, on which the value does not depend."""
    x, _ = data(w.weight)
    z = torch.relu(w(x)) * torch.arange(4).to(x)
    z = z - z.detach().amax(1, keepdim=True)
    return (r(x[:, :1]) * (z.exp().sum(1, keepdim=True).log() - z[:, :1])).mean()


def monitored(w: Any, r: Any) -> Any:
    each = losses(w)
    return (r(X[:, :1].to(each)) * each).mean(), {"peak": each.detach().max()}


def bent_above(w: Any, r: Any) -> Tensor:
    """Bent in r alone: what differences in w see is bent in the same way on both sides."""
    each = losses(w)
    return (Quantised.apply(r(X[:, :1].to(each))) * each).mean()


SYMMETRIC: dict[str, Low] = {
    "attached": weighted(lambda e: e), "shifted": shifted, "metric": monitored,
    "bent above": bent_above, "a mask": weighted(lambda e: (e > e.mean()).to(e)),
    "own backward": lambda w, r: (Sine.apply(w.weight) * r(w.bias.reshape(1, 1))).sum(),
    "no second one": lambda w, r: (SineOnce.apply(w.weight) * r(w.bias.reshape(1, 1))).sum(),
}  # fmt: skip


def two_levels(low: Low, method: Any, dtype: torch.dtype = F64) -> mlopt.Engine:
    W = mlopt.Variable(seeded(3, lambda: nn.Linear(3, 1)).to(dtype), "w")
    net = seeded(4, lambda: nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))
    R = mlopt.Variable(net.to(dtype), "r")
    lower = mlopt.problem(over=W, given=[R], optimizer=sgd(W), hypergrad=method, name="low")(low)
    upper = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
        lambda r, w: losses(w).mean() + sum(p.square().sum() for p in r.parameters())
    )
    return mlopt.Engine([lower, upper])


def said(engine: mlopt.Engine) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.hypergradient(engine.graph.problems[-1])
    return [str(w.message) for w in caught if issubclass(w.category, CapabilityWarning)]


def gradient(low: Low, product: Any) -> Tensor:
    engine = two_levels(low, OneStep(lr=1.0, product=product))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapabilityWarning)
        (found,) = engine.hypergradient(engine.graph.problems[-1]).values()
    return torch.cat([t.flatten() for t in found.values()])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", ASYMMETRIC)
def test_one_warning_names_exact(kind: str, dtype: torch.dtype) -> None:
    for method in PRODUCTS:
        (text,) = said(two_levels(ASYMMETRIC[kind], method, dtype))
        assert text.startswith("low: ")
        assert "Exact()" in text


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", SYMMETRIC)
def test_the_nearest_legal_ones_are_silent(kind: str, dtype: torch.dtype) -> None:
    for method in PRODUCTS[:3]:
        assert not said(two_levels(SYMMETRIC[kind], method, dtype))


@pytest.mark.parametrize("kind", ["detached", "small share"])
def test_exact_products_are_not_asked(kind: str) -> None:
    for method in (OneStep(lr=0.1), mlopt.Frozen(), mlopt.Unrolled(2)):
        assert not said(two_levels(ASYMMETRIC[kind], method))


@pytest.mark.parametrize("kind", [*ASYMMETRIC, *SYMMETRIC])
def test_what_is_said_is_so(kind: str) -> None:
    """Off at every radius, or right at a small one."""
    low = {**ASYMMETRIC, **SYMMETRIC}[kind]
    if kind == "no second one":
        return
    right = gradient(low, mlopt.Exact())
    for radius in (1e-3, 1e-4):
        found = gradient(low, Central(radius))
        if kind in SYMMETRIC:
            near(found, right, 1e-4, why="central difference: radius^2 of the third derivative")
        else:
            assert float((found - right).norm() / right.norm()) > 0.05


def test_the_cause_is_named() -> None:
    (text,) = said(two_levels(ASYMMETRIC["detached"], OneStep(lr=0.1, product=Central())))
    assert "detach() in test_symmetry.py, line" in text
    (text,) = said(two_levels(small_share, OneStep(lr=0.1, product=Central())))
    assert "Quantised" in text


def test_kinks_alone_are_no_asymmetry() -> None:
    """In float32 the exact product sees no kinks, and differences do; both sides see the same."""
    for seed in range(3):
        W = mlopt.Variable(
            seeded(seed, lambda: nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
                nn.Flatten(), nn.Linear(72, 4))).float(), "w")  # fmt: skip
        R = mlopt.Variable(nn.Parameter(torch.zeros(4)), "r")
        x = seeded(seed, lambda: torch.randn(16, 1, 12, 12)).float()

        def low(w: Any, r: Tensor, x: Tensor = x) -> Tensor:
            z = w(x) * r.exp()
            return cross_entropy(z - z.detach().amax(1, keepdim=True), torch.arange(16) % 4)

        lower = mlopt.problem(over=W, given=[R], optimizer=sgd(W), name="low",
                              hypergrad=OneStep(product=Central()))(low)  # fmt: skip
        upper = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
            lambda r, w, x=x: w(x).square().mean()
        )
        assert not said(mlopt.Engine([lower, upper]))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_of_kinks_alone_both_sides_see_the_same(dtype: torch.dtype) -> None:
    """Double backward gives zero, differences the density of the kinks."""
    x = seeded(0, lambda: torch.randn(20000, 3, dtype=F64)).to(dtype)
    W = mlopt.Variable(nn.Parameter(torch.tensor([0.5, -1.0, 0.3], dtype=dtype)), "w")
    R = mlopt.Variable(nn.Parameter(torch.full((1,), 0.2, dtype=dtype)), "r")
    up = mlopt.problem(over=R, given=[W], optimizer=sgd(R), name="up")(
        lambda r, w: w.square().sum() + r.square().sum()
    )
    found = []
    for product in (mlopt.Exact(), Central()):

        @mlopt.problem(over=W, given=[R], hypergrad=OneStep(lr=1.0, product=product))
        def low(w, r):
            z = (x @ w - r).abs()
            return z.mean(), {"peak": z.detach().max()}

        engine = mlopt.Engine([low, up])
        assert not said(engine)
        found.append(float(engine.hypergradient(up)[R][""]))
    assert abs(found[1] - found[0]) > 0.05


@pytest.mark.parametrize(("radius", "lost"), [(1e-2, False), (1e-4, False), (1e-6, True),
                                              (1e-8, True)])  # fmt: skip
def test_a_radius_below_the_rounding_of_the_weights(radius: float, lost: bool) -> None:
    for product in (Central(radius), OneSided(radius)):
        low = weighted(lambda e: e)
        found = said(two_levels(low, OneStep(lr=0.1, product=product), torch.float32))
        assert len(found) == lost
        assert all("float32" in text and "take about" in text for text in found)
        assert not said(two_levels(low, OneStep(lr=0.1, product=product)))

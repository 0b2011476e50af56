"""Middle problems by differences: what lies below them is displaced too, or a warning says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import near
from functions import Sine, SquareOnce
from small import F64, sgd
from torch import Tensor, nn

import mlopt
from mlopt import CapabilityWarning, Central, OneSided, OneStep, Sama, Unrolled

Bend = Callable[[Tensor], Tensor]
PRODUCTS = [OneStep(product=Central(1e-3)), OneStep(product=OneSided(1e-3)), Sama()]
PLACES = ["low reads a", "signal", "middle reads s"]
X = torch.linspace(-1.0, 1.5, 36, dtype=F64).reshape(12, 3)


class Steps(torch.autograd.Function):
    """Rounded values, the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent


class Scaled(torch.autograd.Function):
    """A gradient of which less is passed on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return 0.5 * cotangent


class Reversed(Scaled):
    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return -cotangent


def weighted(x: Tensor) -> Tensor:
    """By a weight that is taken as a constant."""
    return x * x.detach()


BENT: dict[str, Bend] = {
    "straight through": Steps.apply, "reversed": Reversed.apply, "scaled": Scaled.apply,
    "detached weights": weighted, "detached": lambda x: x.detach(),
}  # fmt: skip
STRAIGHT: dict[str, Bend] = {
    "smooth": torch.sin, "own backward": Sine.apply,
    "shifted": lambda x: (x - x.detach().amax()).logsumexp(0, True) + x.detach().amax() + x,
}  # fmt: skip


def three_levels(
    bend: Bend, where: str, method: Any, low: Any = None, dtype: torch.dtype = F64
) -> tuple[mlopt.Engine, Tensor]:
    """The engine, and the top's hypergradient by plain autograd with one step of each level."""

    def at(place: str, x: Tensor) -> Tensor:
        return bend(x) if place == where else x

    def bottom(w: Tensor, a: Tensor) -> Tensor:
        out = at("low's own", w).sin() - at("low reads a", a).exp()
        return out.square().sum() + 0.2 * w.square().sum()

    def heard(w: Tensor) -> Tensor:
        return at("signal", 2 * w)

    def centre(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        out = at("middle reads s", s).sin() * at("middle reads b", b).exp() - 1
        return out.square().sum() + 0.1 * a.square().sum()

    start = torch.tensor([0.1, 0.3, -0.2], dtype=dtype)
    w, a, b = (nn.Parameter(start + v) for v in (0.8, 0.2, 0.0))
    W, A, B = (mlopt.Variable(p, n) for p, n in ((w, "w"), (a, "a"), (b, "b")))
    low = mlopt.problem(over=W, given=[A], optimizer=sgd(W, 0.3), hypergrad=low or OneStep(),
                        name="low")(lambda w, a: bottom(w, a))  # fmt: skip
    signal = mlopt.signal(given=[W], name="signal")(lambda w: heard(w))
    middle = mlopt.problem(over=A, given=[B, signal], optimizer=sgd(A, 0.3), hypergrad=method,
                           name="middle")(lambda a, b, s: centre(a, b, s))  # fmt: skip
    top = mlopt.problem(over=B, given=[A], optimizer=sgd(B), name="top")(
        lambda b, a: a.square().sum() + 0.1 * b.square().sum()
    )

    def step(x: Tensor, value: Tensor) -> Tensor:
        return x - 0.3 * torch.autograd.grad(value, x, create_graph=True)[0]

    moved = step(a, centre(a, b, heard(step(w, bottom(w, a)))))
    total = moved.square().sum() + 0.1 * b.square().sum()
    return mlopt.Engine([low, signal, middle, top]), torch.autograd.grad(total, b)[0]


def said(engine: mlopt.Engine) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.step()
    return [str(w.message) for w in caught if issubclass(w.category, CapabilityWarning)]


def found(engine: mlopt.Engine) -> Tensor:
    (tensors,) = engine.hypergradient(engine.graph.problems[-1]).values()
    return tensors[""]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", BENT)
def test_one_warning_names_the_middle_problem_and_exact(kind: str, where: str) -> None:
    for method in PRODUCTS:
        engine, _ = three_levels(BENT[kind], where, method)
        (text,) = said(engine)
        assert text.startswith("middle: ")
        assert "Exact()" in text


@pytest.mark.filterwarnings("ignore:.*takes differences:mlopt.CapabilityWarning")
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", BENT)
def test_what_is_said_is_so(kind: str, where: str) -> None:
    exact = OneStep()
    near(
        found(three_levels(BENT[kind], where, exact)[0]),
        three_levels(BENT[kind], where, exact)[1], 1e-12, why="rounding of a few operations",
    )  # fmt: skip
    engine, right = three_levels(BENT[kind], where, PRODUCTS[0])
    assert float((found(engine) - right).norm() / right.norm()) > 0.05


@pytest.mark.parametrize("where", [*PLACES, "low's own", "middle reads b"])
@pytest.mark.parametrize("kind", STRAIGHT)
def test_the_nearest_legal_ones_are_silent_and_right(kind: str, where: str) -> None:
    for method in PRODUCTS:
        assert not said(three_levels(STRAIGHT[kind], where, method)[0])
    engine, right = three_levels(STRAIGHT[kind], where, PRODUCTS[0])
    near(found(engine), right, 1e-4, why="central difference: radius^2 of the third derivative")


@pytest.mark.parametrize("where", ["low's own", "middle reads b"])
@pytest.mark.parametrize("kind", ["straight through", "reversed", "scaled"])
def test_what_is_not_displaced_may_be_bent(kind: str, where: str) -> None:
    """Its backward is the same on both sides of the difference."""
    for method in PRODUCTS:
        assert not said(three_levels(BENT[kind], where, method)[0])
    engine, right = three_levels(BENT[kind], where, PRODUCTS[0])
    near(found(engine), right, 1e-4, why="central difference: radius^2 of the third derivative")


@pytest.mark.parametrize("kind", ["straight through", "reversed"])
def test_later_steps_of_several_are_displaced_too(kind: str) -> None:
    def gradient(product: Any) -> Tensor:
        engine, _ = three_levels(BENT[kind], "low's own", OneStep(product=product), Unrolled(2))
        return found(engine)

    for method in PRODUCTS:
        (text,) = said(three_levels(BENT[kind], "low's own", method, Unrolled(2))[0])
        assert text.startswith("middle: ")
    with pytest.warns(CapabilityWarning):
        off = gradient(Central(1e-3))
    right = gradient(mlopt.Exact())
    assert float((off - right).norm() / right.norm()) > 0.05


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("coupled", [True, False])
def test_what_is_stopped_is_displaced_all_the_same(place: str, coupled: bool) -> None:
    """Which matters where a derivative that passes changes with it."""
    W, A, B = (
        mlopt.Variable(nn.Parameter(torch.tensor([v, v + 0.2], dtype=F64)), n)
        for v, n in ((0.9, "w"), (0.3, "a"), (0.1, "b"))
    )
    factor = float(coupled)

    def gradient(product: Any) -> tuple[list[str], Tensor]:
        def reads(where: str, source: Any) -> Any:
            return mlopt.stop(source) if where == place else source

        @mlopt.problem(over=W, given=[reads("low reads a", A)], optimizer=sgd(W, 0.3))
        def low(w, a):
            return (w.square() * (factor * a).exp()).sum()

        @mlopt.signal(given=[reads("signal", W)])
        def signal(w):
            return w.sin() if coupled else w.sin().detach() * 0 + 1

        @mlopt.problem(over=A, given=[B, reads("middle reads s", signal)], optimizer=sgd(A, 0.3),
                       hypergrad=OneStep(product=product))  # fmt: skip
        def middle(a, b, s):
            return ((factor * s).exp() * (a * b.exp() - 1).square()).sum() + s.square().sum()

        @mlopt.problem(over=B, given=[A], optimizer=sgd(B))
        def top(b, a):
            return a.square().sum()

        engine = mlopt.Engine([low, signal, middle, top], hypergrad=OneStep())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            (tensors,) = engine.hypergradient(top).values()
        return [str(w.message) for w in caught], tensors[""]

    nothing, right = gradient(mlopt.Exact())
    texts, found = gradient(Central(1e-3))
    assert not nothing
    if coupled:
        (text,) = texts
        assert text.startswith("middle: ")
        assert "stop(" in text and "Exact()" in text  # noqa: PT018
        assert float((found - right).norm() / right.norm()) > 1e-3
    else:
        assert not texts
        near(found, right, 1e-5, why="central difference: radius^2 of the third derivative")


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", [*BENT, "smooth", "shifted", "bfloat16"])
def test_one_that_comes_to_take_differences_is_asked_as_if_it_always_had(
    kind: str, where: str
) -> None:
    """It has no second derivatives, which is found when what lies below has been seen."""

    def texts(method: Any) -> list[str]:
        bends = {**BENT, **STRAIGHT, "bfloat16": lambda x: x.bfloat16().to(x.dtype)}
        engine, _ = three_levels(bends[kind], where, method)
        middle = engine.graph.problems[1]
        plain = middle.fn
        middle.fn = lambda a, b, s: plain(a, b, s) + 0.1 * SquareOnce.apply(a).sum()
        return said(engine)

    first, *others = texts(OneStep())
    assert first.startswith("middle: central differences for OneStep()")
    assert others == texts(OneStep(product=Central()))
    assert len(others) == (kind not in STRAIGHT)


def test_one_that_comes_to_take_differences_for_want_of_a_third_derivative_is_asked() -> None:
    """Which is found by a trial of all levels, when each has been seen."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            return 3 * SquareOnce.apply(ctx.saved_tensors[0]) * cotangent

    def texts(method: Any) -> list[str]:
        engine, _ = three_levels(Steps.apply, "low's own", OneStep(), method)
        low = engine.graph.problems[0]
        plain = low.fn
        low.fn = lambda w, a: plain(w, a) + 0.01 * Cube.apply(w).sum()
        return said(engine)

    first, *others = texts(OneStep())
    assert first.startswith("low: central differences for OneStep()")
    assert others == texts(OneStep(product=Central()))
    assert len(others) == 1


@pytest.mark.parametrize("where", PLACES)
def test_exact_products_are_not_asked(where: str) -> None:
    for method in (OneStep(), mlopt.Frozen(), Unrolled(2)):
        assert not said(three_levels(Steps.apply, where, method)[0])


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("low", [OneStep(), Unrolled(2)])
def test_low_precision_below_is_told_by_its_dtype(where: str, low: Any) -> None:
    def cast(x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)

    for method in PRODUCTS:
        (text,) = said(three_levels(cast, where, method, low)[0])
        assert text.startswith("middle: ")
        assert "bfloat16" in text
        assert "Exact()" in text


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("low", [OneStep(), Unrolled(2)])
def test_kinks_below_are_nothing_to_warn_of(low: Any, dtype: torch.dtype) -> None:
    """Many of them lie within the radius, and a part without gradient beside them is no fault."""
    x = torch.randn(2000, 3, dtype=F64, generator=torch.Generator().manual_seed(0)).to(dtype)
    W = mlopt.Variable(nn.Parameter(torch.tensor([0.5, -1.0, 0.3], dtype=dtype)), "w")
    A = mlopt.Variable(nn.Parameter(torch.full((1,), 0.2, dtype=dtype)), "a")
    B = mlopt.Variable(nn.Parameter(torch.full((1,), 0.1, dtype=dtype)), "b")

    @mlopt.problem(over=W, given=[A], optimizer=sgd(W, 0.3), hypergrad=low, name="low")
    def lower(w, a):
        z = (x @ w - a).abs()
        return z.mean(), {"peak": z.detach().max()}

    @mlopt.problem(over=A, given=[B, W], optimizer=sgd(A), hypergrad=PRODUCTS[0], name="middle")
    def middle(a, b, w):
        return (x @ w * b.exp() - 1).relu().square().mean() + a.square().sum()

    @mlopt.problem(over=B, given=[A], optimizer=sgd(B), name="top")
    def top(b, a):
        return a.square().sum() + b.square().sum()

    assert not said(mlopt.Engine([lower, middle, top]))


def test_an_audit_has_it_among_its_causes() -> None:
    for where in PLACES:
        audit = mlopt.audit(three_levels(Steps.apply, where, PRODUCTS[0])[0])
        assert any("middle" in c.text and "Exact()" in c.text for c in audit.causes)
    assert not mlopt.audit(three_levels(torch.sin, "signal", PRODUCTS[0])[0]).causes


@pytest.mark.filterwarnings("ignore:.*takes differences:mlopt.CapabilityWarning")
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("kind", [*STRAIGHT, *BENT])
def test_the_first_check_costs_at_most_three_steps_and_later_ones_nothing(
    kind: str, where: str
) -> None:
    engine, _ = three_levels({**STRAIGHT, **BENT}[kind], where, PRODUCTS[0])
    count = engine._evaluator.count
    engine._check()
    first = count.total()
    engine.step()
    step = count.total() - first
    engine.step()
    assert count.total() - first == 2 * step
    assert first <= 3 * step

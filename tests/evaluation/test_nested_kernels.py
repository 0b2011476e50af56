"""Nested levels: second derivatives of middle objectives and of signals, by kernels that have them.

Torch's fused attention has first derivatives alone, its mathematical kernel has all.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from functions import SquareOnce
from small import F64, seeded, sgd
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import mlopt
from mlopt import CapabilityWarning, Central, Dense, GraphError, Implicit, OneStep, Unrolled

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(6, 4)

METHODS = {
    "one step": OneStep(),
    "central": OneStep(product=Central()),
    "unrolled": Unrolled(2),
    "implicit": Implicit(Dense(), damping=2.0),
}


def attention(x: Tensor) -> Tensor:
    h = x[None, None]
    return nn.functional.scaled_dot_product_attention(h, h, h)[0, 0]


def world(low_method: Any, mid_method: Any, where: str, special: Any) -> mlopt.Engine:
    """Three levels, with a special operation in one objective, or in a signal between two."""
    B, A = (nn.Parameter(torch.full((1,), v, dtype=F64)) for v in (0.3, 0.7))
    W = mlopt.Variable(seeded(3, lambda: nn.Linear(4, 4)), "w")
    V, U = mlopt.Variable(B, "b"), mlopt.Variable(A, "a")

    def plain(x: Tensor) -> Tensor:
        return x.sin()

    def at(place: str) -> Any:
        return special if place == where else plain

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W, 0.3), hypergrad=low_method)
    def low(w, b):
        h = at("low")(w(X)) * b.exp() - 1
        return (h**2).mean() + 0.1 * sum((p**2).sum() for p in w.parameters())

    @mlopt.signal(given=[W])
    def answers(w):
        return at("answers")(w(X))

    @mlopt.problem(over=V, given=[W, answers, U], optimizer=sgd(V, 0.3), hypergrad=mid_method)
    def middle(b, w, s, a):
        return ((at("middle")(w(X)) + s - 2) ** 2).mean() + (b**4).sum() * a.exp().sum()

    @mlopt.problem(over=U, given=[V, W], optimizer=sgd(U, 0.3))
    def top(a, b, w):
        return (b * w(X)).mean() + (a**2).sum()

    return mlopt.Engine([low, answers, middle, top])


def found(engine: mlopt.Engine) -> list[Tensor]:
    """The hypergradients, and where they lead."""
    engine.plan()
    gradients = [engine.hypergradient(p) for p in engine.graph.problems]
    engine.step()
    at = [t.detach() for v in engine.graph.variables for t in v.named_parameters().values()]
    return [t for g in gradients for named in g.values() for t in named.values()] + at


@pytest.mark.filterwarnings("ignore:.*mathematical kernel:mlopt.CapabilityWarning")
@pytest.mark.parametrize("where", ["low", "middle", "answers"])
@pytest.mark.parametrize(
    ("low", "mid"),
    [("unrolled", "unrolled"), ("implicit", "implicit"), ("one step", "one step"),
     ("central", "implicit"), ("unrolled", "central")],
)  # fmt: skip
def test_attention_anywhere(low: str, mid: str, where: str) -> None:
    methods = METHODS[low], METHODS[mid]
    with sdpa_kernel(SDPBackend.MATH):
        expected = found(world(*methods, where, attention))
    bound = rounding(4000, condition=100) / (0.01 if "central" in (low, mid) else 1)
    for a, b in zip(found(world(*methods, where, attention)), expected, strict=True):
        exact(a, b, bound)


@pytest.mark.parametrize("where", ["middle", "answers"])
def test_what_no_kernel_has_is_a_difference_or_refused_by_name(where: str) -> None:
    methods = METHODS["implicit"], METHODS["implicit"]
    expected = found(world(*methods, where, lambda x: x**2))
    engine = world(*methods, where, SquareOnce.apply)
    with pytest.warns(CapabilityWarning, match=rf"^middle: central diff.*the objective of {where}"):
        engine.plan()
    for a, b in zip(found(engine), expected, strict=True):
        near(a, b, 100 * 0.01**2, why="radius^2 / 6 of the third derivative")
    engine = world(METHODS["unrolled"], METHODS["unrolled"], where, SquareOnce.apply)
    with pytest.raises(GraphError, match=rf"^{where}: nested levels differentiate"):
        engine.step()
    assert engine.graph.methods[engine.graph.problems[1]] == METHODS["unrolled"]
    assert not engine._evaluator.regions


def bag(x: Tensor) -> Tensor:
    """Linear in its table, and without a derivative of its backward by what comes back to it."""
    return nn.functional.embedding_bag(torch.arange(24).reshape(6, 4) % 6, x.sin(), mode="mean")


def gathered(x: Tensor) -> Tensor:
    return x.sin()[torch.arange(24).reshape(6, 4) % 6].mean(1)


@pytest.mark.parametrize("where", ["middle", "answers"])
def test_a_backward_that_has_no_derivative_by_what_comes_back(where: str) -> None:
    methods = METHODS["implicit"], METHODS["implicit"]
    expected = found(world(*methods, where, gathered))
    engine = world(*methods, where, bag)
    with pytest.warns(CapabilityWarning, match=r"^middle: central differences.*_embedding_bag"):
        engine.plan()
    for a, b in zip(found(engine), expected, strict=True):
        near(a, b, 100 * 0.01**2, why="radius^2 / 6 of the third derivative")


@pytest.mark.parametrize("where", ["middle", "answers"])
@pytest.mark.parametrize("method", ["implicit", "unrolled"])
def test_an_audit_names_it_among_its_causes(where: str, method: str) -> None:
    audit = mlopt.audit(world(METHODS[method], METHODS[method], where, SquareOnce.apply))
    (cause,) = (c for c in audit.causes if c.kind == "derivatives")
    assert where in cause.text
    assert cause.refused == (method == "unrolled")


def test_nothing_changes_where_the_levels_do_not_need_it() -> None:
    """One step of the middle problem: no second derivative by `w` is taken."""
    engine = world(METHODS["one step"], METHODS["one step"], "middle", attention)
    engine.step()
    assert not engine.graph.notes

"""Embeddings with sparse gradients: everything is what it is with dense ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from audit.audited import right
from compare import exact, rounding
from grids import thinned
from small import F64, seeded
from torch import nn

import mlopt
from mlopt import Central, GraphError, Implicit, OneSided, OneStep, Unrolled
from mlopt.games import Alternating, Extragradient

INDEX = torch.tensor([0, 2, 2, 1])
#: Forty operations an evaluation; a solver takes twenty products, differences divide by a radius.
BOUND = rounding(40 * 40, condition=1e3)

METHODS = {
    "one step": OneStep(),
    "one step, lr": OneStep(lr=0.3),
    "central": OneStep(product=Central()),
    "one-sided": OneStep(product=OneSided()),
    "unrolled": Unrolled(3),
    "recomputed": Unrolled(3, recompute=True),
    "truncated": Unrolled(3, truncate=1),
    "implicit": Implicit(damping=0.1),
    "implicit, dense, central": Implicit(mlopt.Dense(), product=Central()),
    "sama": mlopt.Sama(),
    "zeroth order": mlopt.ZerothOrder(samples=2),
    "frozen": mlopt.Frozen(),
    "stopped": mlopt.StopGradient(OneStep()),
}

Optimizer = Callable[[Any], torch.optim.Optimizer]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.3)


def table(sparse: bool, name: str = "w") -> Any:
    return mlopt.Variable(seeded(3, lambda: nn.Embedding(5, 2, sparse=sparse)), name)


def parameter(name: str, fill: float) -> Any:
    return mlopt.Variable(nn.Parameter(torch.full((2,), fill, dtype=F64)), name)


def pull(w: Any, a: Any) -> Any:
    """Curved in every row, by a second look-up."""
    every = w(torch.arange(5))
    return ((w(INDEX) - a).sin() ** 2).mean() + 0.5 * ((every - 0.3 * a) ** 2).sum()


def below(sparse: bool, method: Any, make: Optimizer = sgd) -> list[Any]:
    """The lower variable is a table."""
    W, A = table(sparse), parameter("a", 0.7)
    low = mlopt.problem(
        over=W, given=[A], optimizer=make(W.parameters()), hypergrad=method, name="low"
    )(pull)
    top = mlopt.problem(over=A, given=[W], optimizer=sgd(A.parameters()), name="top")(
        lambda a, w: w(INDEX).pow(3).sum() + (a * w(INDEX)).sum()
    )
    return [low, top]


def above(sparse: bool, method: Any) -> list[Any]:
    """The leader's variable is one, which the lower problem reads, too."""
    A, W = parameter("a", 0.7), table(sparse)
    low = mlopt.problem(
        over=A, given=[W], optimizer=sgd(A.parameters()), hypergrad=method, name="low"
    )(lambda a, w: pull(w, a) + (a**4).sum())
    top = mlopt.problem(over=W, given=[A], optimizer=sgd(W.parameters()), name="top", clip=0.1)(
        lambda w, a: (w(INDEX) * a).pow(2).sum()
    )
    return [low, top]


def nested(sparse: bool, method: Any) -> list[Any]:
    """Three levels, of which the middle one steers the lowest and is over a table."""
    W, M, A = table(sparse), table(sparse, "m"), parameter("a", 0.4)
    low = mlopt.problem(
        over=W, given=[M], optimizer=sgd(W.parameters()), hypergrad=method, name="low"
    )(lambda w, m: pull(w, m(INDEX).mean(0)))
    middle = mlopt.problem(
        over=M, given=[W, A], optimizer=sgd(M.parameters()), hypergrad=method, name="middle"
    )(lambda m, w, a: pull(m, a) + (w(INDEX) * m(INDEX)).sum())
    top = mlopt.problem(over=A, given=[M, W], optimizer=sgd(A.parameters()), name="top")(
        lambda a, m, w: (m(INDEX) * w(INDEX) * a).sum()
    )
    return [low, middle, top]


def played(sparse: bool, play: Any) -> list[Any]:
    """Two tables play a game."""
    V, A = [table(sparse, n) for n in "uv"], parameter("a", 0.4)
    players = [
        mlopt.problem(over=own, given=[other, A], optimizer=sgd(own.parameters()), name=own.name)(
            lambda own, other, a: pull(own, a) + (own(INDEX) * other(INDEX)).sum()
        )
        for own, other in (V, V[::-1])
    ]
    top = mlopt.problem(over=A, given=V, optimizer=sgd(A.parameters()), name="top")(
        lambda a, u, v: (u(INDEX) * v(INDEX) * a).sum()
    )
    return [mlopt.Game(players, play(*players)), top]


def after(entries: list[Any], steps: int = 2) -> list[Any]:
    """All hypergradients, and all parameters after some steps."""
    engine = mlopt.Engine(entries)
    found = [
        g.to_dense() if g.is_sparse else g
        for p in engine.graph.problems
        for by_name in engine.hypergradient(p).values()
        for g in by_name.values()
    ]
    for _ in range(steps):
        engine.step()
    return found + [p.detach().clone() for v in engine.graph.variables for p in v.parameters()]


WORLDS = {"below": below, "above": above, "nested": nested}


@pytest.mark.parametrize(
    ("world", "method"),
    thinned(2, WORLDS, METHODS, first=1),  # slow: nested, dense, central, half of the time of all
)
def test_every_method_gives_what_it_gives_with_dense_gradients(world: str, method: str) -> None:
    sparse, dense = (after(WORLDS[world](s, METHODS[method])) for s in (True, False))
    exact(sparse, dense, BOUND)


@pytest.mark.parametrize("method", ["one step", "unrolled", "implicit"])
def test_one_that_becomes_sparse_between_two_steps(method: str) -> None:
    engines = []
    for _ in range(2):
        problems = nested(False, METHODS[method])
        engines.append(mlopt.Engine(problems))
        engines[-1].step()
    for variable in engines[0].graph.variables:
        if variable.is_module:
            variable.value.sparse = True
    for engine in engines:
        engine.step()
    sparse, dense = ([p for v in e.graph.variables for p in v.parameters()] for e in engines)
    exact(sparse, dense, BOUND)


@pytest.mark.parametrize(
    "play",
    [lambda u, v: Alternating((u, 2), (v, 1)), lambda u, v: Extragradient()],
    ids=["alternating", "extragradient"],
)
def test_plays(play: Any) -> None:
    exact(after(played(True, play)), after(played(False, play)), BOUND)


@pytest.mark.parametrize("method", ["one step", "unrolled", "implicit", "central"])
def test_the_audit_passes(method: str) -> None:
    report = mlopt.audit(mlopt.Engine(below(True, METHODS[method])), directions=1)
    if method == "implicit":  # damped, and not at its optimum
        (edge,) = [f.error for f in report.findings if f.kind == "edge"]
        exact(edge, 0.0, 1e-6, scale=1.0)
    else:
        right(report.worst, 1e-5 if method == "central" else 1e-6)


@pytest.mark.parametrize(
    "make",
    [
        sgd,
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.SparseAdam(list(p), lr=0.1),
    ],
    ids=["sgd", "momentum", "adagrad", "sparse adam"],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_an_optimizer_gets_the_sparse_gradients_of_plain_torch(make: Optimizer) -> None:
    """To the bit, under a frozen method and alone; rows that are not looked up stay."""
    loss = lambda w: ((w(INDEX) - 1) ** 2).mean()  # noqa: E731
    plain = table(True).value
    optimizer = make(plain.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss(plain).backward()
        optimizer.step()
    W = table(True)
    low = mlopt.problem(over=W, optimizer=make(W.parameters()), name="low")(loss)
    engine = mlopt.Engine([low])
    assert engine.hypergradient(low)[W]["weight"].is_sparse
    for _ in range(3):
        engine.step()
    assert torch.equal(W.value.weight, plain.weight)
    assert torch.equal(W.value.weight[3:], table(True).value.weight[3:])


@pytest.mark.parametrize("product", [mlopt.Exact(), Central()], ids=repr)
@pytest.mark.parametrize("world", [below, above, nested], ids=lambda f: f.__name__)
def test_sparse_adam_updates_the_rows_that_a_gradient_of_several_parts_names(
    world: Any, product: Any
) -> None:
    """It takes sparse gradients alone: of a dense one the rows that are not zero."""
    entries = world(True, OneStep(lr=0.3, product=product))
    tables = [p for p in entries if p.over[0].is_module]
    for p in tables:
        p.clip = None
        p.optimizer = torch.optim.SparseAdam(list(p.over[0].parameters()), lr=0.1)
    engine = mlopt.Engine(entries)
    expected = []
    for p in tables:
        (gradient,) = engine.hypergradient(p)[p.over[0]].values()
        plain = nn.Parameter(p.over[0].value.weight.detach().clone())
        plain.grad = gradient if gradient.is_sparse else gradient.to_sparse(1)
        torch.optim.SparseAdam([plain], lr=0.1).step()
        expected.append(plain)
    engine.step()
    for p, plain in zip(tables, expected, strict=True):
        assert torch.equal(p.over[0].value.weight, plain)


@pytest.mark.parametrize("method", ["f2sa", "bome"])
def test_penalties(method: str) -> None:
    def made(sparse: bool) -> list[Any]:
        low, top = below(sparse, None)
        if method == "f2sa":
            return [*mlopt.f2sa(lower=low, upper=top, weight=10.0).nodes]
        return [*mlopt.bome(lower=low, upper=top, inner_steps=2, inner_lr=0.1).nodes]

    exact(after(made(True)), after(made(False)), BOUND)


def test_the_embedding_is_left_as_it_was() -> None:
    """Also where an evaluation raises."""
    low, top = below(True, Unrolled(2))
    engine = mlopt.Engine([low, top])
    engine.step()
    embedding = low.over[0].value
    assert embedding.sparse
    fn = low.fn

    def broken(w: Any, a: Any) -> Any:
        raise ZeroDivisionError(fn(w, a).item())

    low.fn = broken
    with pytest.raises(ZeroDivisionError):
        engine.step()
    assert embedding.sparse


def test_a_sparse_look_up_outside_of_modules() -> None:
    """Its gradients cannot be made dense: right where they end, refused where they go on."""

    class Table(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            self.weight, self.sparse = table(False).value.weight, sparse

        def forward(self, rows: Any) -> Any:
            return nn.functional.embedding(rows, self.weight, sparse=self.sparse)

    def entries(sparse: bool, method: Any, world: Any = below) -> list[Any]:
        made = world(False, method)
        (variable,) = made[0].over
        variable.value.__class__ = Table
        variable.value.sparse = sparse
        return made

    for method in (OneStep(lr=0.3), OneStep(product=Central()), Implicit(damping=0.1)):
        exact(after(entries(True, method)), after(entries(False, method)), BOUND)
    for world, method in ((below, Unrolled(2)), (nested, OneStep(lr=0.3))):
        made = entries(True, method, world)
        with pytest.raises(GraphError, match=r"low calls embedding.*sparse=True.*sparse=False"):
            mlopt.Engine(made).step()
        after(entries(False, method, world), steps=1)

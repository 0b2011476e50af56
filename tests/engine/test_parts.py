"""`Engine(parts=m)`: the joined batch's numbers, with the graph of one part at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from audit.audited import DIFFERENCES
from compare import exact, near
from small import F64, seeded
from torch import Tensor, nn

import mlopt
from mlopt.hypergrad.derivatives import backward_passes

#: Asked for by the parts law; see tests/sweep/test_random_parts.py for graphs of every shape.
LAW = 1e-10
SAMPLES = 10


def data(seed: int, samples: int = SAMPLES, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, generator=generator, dtype=F64)
    return x.to(device), (torch.arange(samples) % 3).to(device)


def bowl(method: Any, parts: int, device: Any = "cpu") -> mlopt.Engine:
    """A convex lower level, steered by the upper one: every method has its say."""
    net = seeded(1, lambda: nn.Linear(3, 3)).to(device)
    a = torch.tensor([0.3, -0.2, 0.1], dtype=F64, device=device).requires_grad_()
    W, A = mlopt.Variable(net, "w"), mlopt.Variable(a, "a")

    @mlopt.problem(
        over=W,
        given=[A],
        data=[data(2, device=device)],
        optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
    )
    def lower(w, a, batch):
        x, y = batch
        z = mlopt.outputs(w(x) * a.exp())
        penalty = sum((p**2).sum() for p in w.parameters())
        return nn.functional.cross_entropy(z, y) + 0.5 * penalty, {"size": z.abs().mean()}

    @mlopt.problem(
        over=A,
        given=[W],
        data=[data(3, device=device)],
        optimizer=torch.optim.Adam(A.parameters(), lr=0.1),
    )
    def upper(a, w, batch):
        x, y = batch
        return nn.functional.cross_entropy(w(x), y) + 0.01 * (a**2).sum()

    return mlopt.Engine([lower, upper], hypergrad=method, parts=parts)


METHODS = {
    "frozen": mlopt.Frozen(),
    "exact": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided()),
    "sama": mlopt.Sama(),
    "stop": mlopt.StopGradient(mlopt.OneStep()),
    "implicit": mlopt.Implicit(),
    "implicit, central": mlopt.Implicit(mlopt.Dense(), mlopt.Central()),
    "neumann": mlopt.Implicit(mlopt.Neumann(5)),
    "nystrom": mlopt.Implicit(mlopt.Nystrom(5)),
    "gauss-newton": mlopt.Implicit(mlopt.Dense(), curvature=mlopt.GaussNewton()),
    "gauss-newton, central": mlopt.Implicit(
        mlopt.Dense(), mlopt.Central(), curvature=mlopt.GaussNewton()
    ),
    "unrolled": mlopt.Unrolled(3),
    "truncated": mlopt.Unrolled(3, truncate=2),
    "recomputed": mlopt.Unrolled(4, recompute=True),
    "zeroth order": mlopt.ZerothOrder(samples=3),
}


def numbers(engine: mlopt.Engine) -> list[Any]:
    """The hypergradient, the metrics of a step, and the parameters after three."""
    top = engine.graph.problems[-1]
    found = engine.hypergradient(top)
    metrics = {k: m for k, m in engine.step().items() if not k.endswith("/residual")}
    engine.step()  # a residual is rounding alone
    engine.step()
    parameters = {v.name: [p.detach() for p in v.parameters()] for v in engine.graph.variables}
    return [{v.name: own for v, own in found.items()}, metrics, parameters]


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # a few steps of a solver
@pytest.mark.parametrize("method", METHODS)
def test_parts_law_of_every_method(method, device):
    joined = numbers(bowl(METHODS[method], 1, device))
    exact(numbers(bowl(METHODS[method], 3, device)), joined, LAW)


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("implicit",)])
def test_plan_counts_what_is_computed_again(method):
    engine = bowl(METHODS[method], 3)
    plan = engine.plan()
    calls, passes = sum(engine._evaluator.count.values()), backward_passes()
    engine.step()
    made = sum(engine._evaluator.count.values()) - calls, backward_passes() - passes
    assert made == (plan.evaluations, plan.backwards)
    assert "in 3 parts" in str(plan)


@pytest.mark.filterwarnings("ignore:.*(nested|uantize):UserWarning")
def test_metrics_without_a_mean_are_those_of_the_first_part():
    """What has no arithmetic among them; and none keeps its graph."""
    pair = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    rough = torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)

    def loss(w: Any, batch: Any) -> Any:
        value = w(batch[0]).square().mean()
        return value, {"pair": pair, "rough": rough, "word": "a", "list": [value], "value": value}

    W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 3)), "w")
    step = torch.optim.SGD(W.parameters(), lr=0.1)
    fit = mlopt.problem(over=W, data=[data(2)], optimizer=step, name="fit")(loss)
    first = loss(W.value, [t[:4] for t in data(2)])[0].detach()  # of ten in three parts
    metrics = mlopt.Engine([fit], parts=3).step()
    assert metrics["fit/pair"].is_nested
    assert metrics["fit/rough"].is_quantized
    assert metrics["fit/word"] == "a"
    assert metrics["fit/list"][0].equal(first)
    assert not metrics["fit/list"][0].requires_grad


class Live(torch.autograd.Function):
    """The identity, which counts how many of its results can still be gone back through."""

    now = most = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.requires_grad:
            ctx.token = _Token(len(x))
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class _Token:
    def __init__(self, samples: int) -> None:
        self.samples = samples
        Live.now += samples
        Live.most = max(Live.most, Live.now)

    def __del__(self) -> None:
        Live.now -= self.samples


def counted(method: Any, parts: int) -> int:
    """The most samples whose graph is held at a time in a step."""
    W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 3)), "w")
    A = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "a")
    batch = data(2, 12)

    def loss(w, x, y, scale):
        return nn.functional.cross_entropy(Live.apply(w(x) * scale.exp()), y)

    @mlopt.problem(
        over=W, given=[A], data=[batch], optimizer=torch.optim.SGD(W.parameters(), lr=0.1)
    )
    def lower(w, a, batch):
        value = loss(w, *batch, a)
        return value, {"value": value, "more": [value, {"in": (value,)}]}

    @mlopt.signal(given=[W, A], data=[batch])
    def soft(w, a, batch):
        return Live.apply(w(batch[0]) * a).softmax(-1)

    @mlopt.problem(
        over=A, given=[W, soft], data=[batch], optimizer=torch.optim.SGD(A.parameters(), lr=0.1)
    )
    def upper(a, w, soft, batch):
        return loss(w, *batch, a) + (soft**2).mean()

    engine = mlopt.Engine([lower, soft, upper], hypergrad=method, parts=parts)
    engine.step()
    Live.most = Live.now = 0
    engine.step()
    assert Live.now == 0
    return Live.most


@pytest.mark.parametrize(
    "method",
    [mlopt.Frozen(), mlopt.OneStep(product=mlopt.Central()), mlopt.OneStep(), mlopt.Unrolled(3)],
    ids=["frozen", "central", "exact", "unrolled"],
)
def test_the_graph_of_one_part_is_held_at_a_time(method):
    assert counted(method, 4) == 3
    assert counted(method, 1) >= 12


class Passed(torch.autograd.Function):
    """The identity, which counts the gradients that come back to it, by name."""

    found: Counter[str] = Counter()

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.key = name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        Passed.found[ctx.key] += 1
        return g, None


def test_no_gradient_is_computed_that_nobody_asks_for():
    """One of each part for what is trained; none for what the optimizer does not hold."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x @ Passed.apply(self.body.weight, "body")
            return x @ Passed.apply(self.head.weight, "head")

    W = mlopt.Variable(seeded(1, Pair), "w")
    A = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "a")
    sgd = torch.optim.SGD(W.value.head.parameters(), lr=0.1)

    @mlopt.problem(over=W, given=[A], data=[data(2)], optimizer=sgd)
    def lower(w, a, batch):
        return nn.functional.cross_entropy(w(batch[0]) * Passed.apply(a, "a"), batch[1])

    @mlopt.problem(
        over=A, given=[W], data=[data(3)], optimizer=torch.optim.SGD(A.parameters(), lr=0.1)
    )
    def upper(a, w, batch):
        return nn.functional.cross_entropy(w(batch[0]), batch[1]) + (a**2).sum()

    engine = mlopt.Engine([lower, upper], hypergrad=mlopt.Frozen(), parts=3)
    engine.step()
    Passed.found.clear()
    engine.step()
    assert Passed.found == {"head": 3}


# Beside everything else.


def test_stacks_are_evaluated_one_by_one_and_say_so():
    nets = [mlopt.Variable(seeded(i, lambda: nn.Linear(3, 3)), f"w{i}") for i in range(2)]
    problems = [
        mlopt.problem(
            over=v, data=[data(2)], optimizer=torch.optim.SGD(v.parameters(), lr=0.1), name=v.name
        )(lambda w, batch: nn.functional.cross_entropy(w(batch[0]), batch[1]))
        for v in nets
    ]
    engine = mlopt.Engine([mlopt.Stack(problems)], parts=2)
    engine.step()
    assert "evaluated one by one, each in parts" in str(engine.plan())


def test_a_resumed_engine_goes_on_to_the_bit(tmp_path):
    engine, other, whole = (bowl(mlopt.OneStep(), 2) for _ in range(3))
    engine.step()
    other.load_state_dict(engine.state_dict())
    other.step()
    whole.step()
    whole.step()
    for a, b in zip(other.graph.variables, whole.graph.variables, strict=True):
        assert all(map(torch.equal, a.parameters(), b.parameters()))


def test_audit_sees_what_a_step_computes():
    found = mlopt.audit(bowl(mlopt.OneStep(), 3))
    assert not found.causes
    near(found.worst, 0.0, DIFFERENCES, scale=1.0, why="the differences of the audit")

"""`Engine(parts=m)`: the joined batch's numbers, with the graph of one part at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from audit.audited import DIFFERENCES
from compare import exact, near, rounding
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


# Draws and buffers.


class Noisy(nn.Module):
    """Dropout and BatchNorm, as they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(3), nn.Dropout(0.4), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(x)))


def test_a_loop_that_draws_part_by_part_draws_the_same():
    net, twin = (seeded(1, Noisy) for _ in "12")
    x, y = data(4)
    W = mlopt.Variable(net, "w")

    @mlopt.problem(over=W, data=[(x, y)], optimizer=torch.optim.SGD(W.parameters(), lr=0.5))
    def fit(w, batch):
        return nn.functional.cross_entropy(w(batch[0]), batch[1])

    engine = mlopt.Engine([fit], parts=3)
    seeds = [engine.seed_of(fit, part=i) for i in range(3)]
    assert len(set(seeds)) == 3
    assert seeds[0] == engine.seed_of(fit)
    engine.step()

    start = {k: b.clone() for k, b in twin.named_buffers()}
    left: dict[str, Any] = dict.fromkeys(start, 0.0)
    total = torch.zeros((), dtype=F64)
    for seed, xs, ys in zip(seeds, x.split([4, 3, 3]), y.split([4, 3, 3]), strict=True):
        for k, b in twin.named_buffers():
            b.data = start[k].clone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            total = total + nn.functional.cross_entropy(twin(xs), ys) * len(xs) / SAMPLES
        for k, b in twin.named_buffers():
            left[k] = left[k] + b * len(xs) / SAMPLES
    total.backward()
    expected = [p.detach() - 0.5 * p.grad for p in twin.parameters()]
    exact([p.detach() for p in net.parameters()], expected, rounding(400, 10))
    found = dict(net.named_buffers())
    exact(found["norm.running_mean"], left["norm.running_mean"], rounding(40))
    exact(found["norm.running_var"], left["norm.running_var"], rounding(40))
    assert found["norm.num_batches_tracked"] == 1


def test_complex_buffers_are_means_as_real_ones_are():
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 3)
            self.register_buffer("mean", torch.zeros(3, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = self.mean * 0.9 + 0.1 * torch.complex(x.cos(), x.sin()).mean(0)
            return self.last(x)

    net, batch = seeded(1, Spectrum), data(4)
    W = mlopt.Variable(net, "w")

    @mlopt.problem(over=W, data=[batch], optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def fit(w, batch):
        return nn.functional.cross_entropy(w(batch[0]), batch[1])

    mlopt.Engine([fit], parts=3).step()
    exact(net.mean, 0.1 * torch.complex(batch[0].cos(), batch[0].sin()).mean(0), rounding(40))


class Moving(nn.Module):
    """It reads a buffer that each call moves, by as much whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        z = self.last(x) * self.scale
        self.scale = self.scale + 0.3
        return z


PLAYS: dict[str, Any] = {
    "joint": lambda p, q: mlopt.games.Joint(3),
    "alternating": lambda p, q: mlopt.games.Alternating((p, 2), (q, 1)),
    "extragradient": lambda p, q: mlopt.games.Extragradient(),
}


@pytest.mark.parametrize("play", PLAYS)
def test_parts_law_of_plays_whose_buffers_move(play):
    """A leader has parts computed again when the players' buffers are those of later steps."""

    def made(parts: int) -> mlopt.Engine:
        V, W = (mlopt.Variable(seeded(i, Moving), f"w{i}") for i in range(2))
        A = mlopt.Variable(torch.tensor([0.3, -0.2, 0.1], dtype=F64).requires_grad_(), "a")

        def player(own: mlopt.Variable, other: mlopt.Variable, sign: int) -> mlopt.Problem:
            sgd = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)

            @mlopt.problem(
                over=own, given=[other, A], data=[data(2)], optimizer=sgd, name=f"over {own.name}"
            )
            def objective(own, other, a, batch):
                x, y = batch
                z = own(x) * a.exp()
                return nn.functional.cross_entropy(z, y) + sign * (z * other(x)).tanh().mean()

            return objective

        @mlopt.problem(
            over=A, given=[V, W], data=[data(3)], optimizer=torch.optim.SGD(A.parameters(), lr=0.1)
        )
        def leader(a, v, w, batch):
            return nn.functional.cross_entropy(v(batch[0]) + w(batch[0]), batch[1]) + (a**2).sum()

        players = player(V, W, 1), player(W, V, -1)
        game = mlopt.Game(players, play=PLAYS[play](*players))
        return mlopt.Engine([game, leader], parts=parts)

    exact(numbers(made(3)), numbers(made(1)), LAW)


# How a batch is split, and what its parts count.


def masked(w, batch):
    error = (batch["x"] @ w).square() * batch["mask"]
    return error.sum() / batch["mask"].sum()


def columns(w, batch):
    return (batch.T @ w).square().mean()


def listed(w, batch):
    assert len(batch["name"]) == len(batch["x"])
    return (
        sum((x @ w).square() * len(n) for x, n in zip(batch["x"], batch["name"], strict=True)) / 7
    )


X, MASK = data(5, 7)[0], torch.tensor([1.0, 0, 0, 1, 1, 1, 1], dtype=F64)
SPLITS: dict[str, Any] = {
    "count": (masked, {"x": X, "mask": MASK}, {"count": lambda b: b["mask"].sum()}),
    "count of whole numbers": (
        masked, {"x": X, "mask": MASK}, {"count": lambda b: int(b["mask"].sum())},
    ),
    "dimension": (columns, X.T.contiguous(), {"split": 1}),
    "names beside tensors": (
        lambda w, b: listed(w, b) * 7, {"x": X, "name": ["a", "bb", "c", "d", "ee", "f", "g"]},
        {"combine": "sum"},
    ),
    "sum": (lambda w, x: (x @ w).square().sum(), X, {"combine": "sum"}),
    "function": (
        lambda w, x: (x @ w).square().mean(), X, {"split": lambda x, parts: x.split([1, 6])},
    ),
    "whole": (lambda w, x: (x @ w).softmax(0).square().sum(), X, {"split": False}),
    "fewer samples than parts": (lambda w, x: (x @ w).square().mean(), X[:2], {}),
    "no samples": (lambda w, x: (x @ w).sum() + w.sum(), X[:0], {}),
    "two loaders": (
        lambda w, b: (b[0] @ w).square().mean() + (b[1] @ w).exp().mean(), X,
        {"data": ([data(6, 8)[0]], [data(7, 4)[0]])},
    ),
    "arrays": (
        lambda w, b: (torch.as_tensor(b["x"]) @ w).square().mean(), {"x": X.numpy()}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLITS)
def test_how_a_batch_is_split(case):
    fn, batch, options = SPLITS[case]
    given = {"data": [batch], **options}
    w = torch.tensor([0.5, -1.0, 0.25], dtype=F64)

    def gradient(parts: int) -> Tensor:
        W = mlopt.Variable(w.clone().requires_grad_(), "w")
        made = mlopt.problem(over=W, **given)(fn)
        return mlopt.Engine([made], parts=parts).hypergradient(made)[W][""]

    exact(gradient(4), gradient(1), rounding(200, 10))


def test_class_means_are_sums_and_counts():
    def made(parts: int) -> list[Any]:
        W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 3)), "w")
        V = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 3)), "v")
        options = {"data": [data(2)]}

        @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1), **options)
        def first(w, batch):
            return nn.functional.cross_entropy(w(batch[0]), batch[1])

        @mlopt.signal(given=[W], data=[data(8)], combine="sum")
        def sums(w, batch):
            losses = nn.functional.cross_entropy(w(batch[0]), batch[1], reduction="none")
            member = nn.functional.one_hot(batch[1], 3)
            return (losses[:, None] * member).sum(0), member.sum(0)

        @mlopt.signal(given=[sums])
        def means(sums):
            return sums[0] / sums[1]

        @mlopt.signal(given=[W], data=[data(8)], combine="mean")
        def average(w, batch):
            return w(batch[0]).tanh().mean(0)

        @mlopt.problem(
            over=V,
            given=[means, average],
            optimizer=torch.optim.SGD(V.parameters(), lr=0.1),
            **options,
        )
        def second(v, weights, average, batch):
            each = nn.functional.cross_entropy(v(batch[0]) + average, batch[1], reduction="none")
            return (weights[batch[1]] * each).mean()

        engine = mlopt.Engine([first, sums, means, average, second], parts=parts)
        engine.step()
        return [engine.signals, *(p.detach() for p in V.parameters())]

    exact(made(3), made(1), LAW)


# What has no meaning is refused.


def test_refusals():
    W = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "w")
    sgd = torch.optim.SGD(W.parameters(), lr=0.1)

    def engine(batch: Any, fn: Any, **options: Any) -> mlopt.Engine:
        return mlopt.Engine(
            [mlopt.problem(over=W, data=batch, optimizer=sgd, **options)(fn)], parts=2
        )

    def square(w, batch):
        return (w * 2).square().sum()

    uneven = [(X, X[:5])]
    with pytest.raises(mlopt.DataError, match=r"square: its batch holds tensors of 5, 7 .*split="):
        engine(uneven, square).step()
    with pytest.raises(mlopt.DataError, match=r"holds no tensor with a dimension 0.*split="):
        engine([{"a": 1}], square).step()
    with pytest.raises(mlopt.DataError, match=r"returned no part"):
        engine([X], square, split=lambda batch, parts: []).step()
    with pytest.raises(mlopt.DataError, match=r"7 and 5 samples.*count="):
        engine(([X], [X[:5]]), square).step()
    with pytest.raises(mlopt.DataError, match=r"count= returned 'a'"):
        engine([X], square, count=lambda part: "a").step()
    with pytest.raises(mlopt.DataError, match=r"count 0"):
        engine([X], square, count=lambda part: 0).step()
    for wrong in ({"split": "rows"}, {"split": -1}, {"split": True}, {"count": 3}):
        with pytest.raises(mlopt.GraphError, match=f"{next(iter(wrong))}="):
            engine([X], square, **wrong)
    with pytest.raises(mlopt.GraphError, match="combine="):
        engine([X], square, combine="max")
    with pytest.raises(mlopt.GraphError, match="give it data="):
        mlopt.problem(over=W, split=1)(lambda w: w.sum())
    with pytest.raises(mlopt.GraphError, match="parts"):
        mlopt.Engine([mlopt.problem(over=W, data=[X], optimizer=sgd)(square)], parts=0)


@pytest.mark.parametrize("samples", [6, 7])
def test_a_signal_of_fixed_size_has_to_say_how_its_parts_combine(samples):
    """Of six samples in two parts, three values look like three rows."""
    W = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "w")
    x = X[:samples] if samples < 7 else X

    @mlopt.signal(given=[W], data=[x])
    def means(w, batch):
        return (batch * w).mean(0)

    @mlopt.problem(
        over=W, given=[means], data=[x], optimizer=torch.optim.SGD(W.parameters(), lr=0.1)
    )
    def fit(w, means, batch):
        return (means * w).sum() + batch.mean()

    with pytest.raises(mlopt.GraphError, match=r"means: .*row for each sample.*combine="):
        mlopt.Engine([means, fit], parts=2).step()


def test_rows_of_another_loader_have_no_parts_in_common():
    W = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "w")

    @mlopt.signal(given=[], data=[X])
    def rows(batch):
        return batch.sin()

    def fit(w, rows, batch):
        return (rows.mean(0) * w).square().sum() + batch.mean()

    options = {"over": W, "given": [rows], "optimizer": torch.optim.SGD(W.parameters(), lr=0.1)}
    with pytest.raises(mlopt.DataError, match=r"5 samples, and the value of rows 7 rows"):
        mlopt.Engine([rows, mlopt.problem(data=[X[:5]], **options)(fit)], parts=2).step()
    whole = mlopt.problem(data=[X[:5]], split=False, **options)(fit)
    mlopt.Engine([rows, whole], parts=2).step()


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

"""Stacked learners: evaluated as one, and the same numbers as one by one."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small import F64, assert_same, batches, mlp, seeded, state_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, mse_loss

import mlopt
from mlopt import Alternate, Central, Exact, Frozen, OneSided, OneStep, Sequential, UpperFirst

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import stacked_learners  # noqa: E402

SGD, ADAM = torch.optim.SGD, torch.optim.Adam


class Net(nn.Module):
    """All kinds of layers that learners are made of; one parameter is frozen, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(12, 3)
        self.tied = self.last.bias
        self.scale = nn.Parameter(torch.rand(3, 1, 1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(x)) * self.scale) * a[0].exp() + x * a[1]
        return self.last(nn.functional.avg_pool2d(h, 2).flatten(1)) + 0.1 * self.tied


def images(count: int, seed: int, labelled: bool = True) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, 1, 4, 4, dtype=F64, generator=g)
    y = torch.randint(3, (count, 6), generator=g)
    return list(zip(x, y, strict=True)) if labelled else list(x)


def optimizer(kind: str, parameters: list[Tensor]) -> Any:
    if kind == "sgd":
        return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2)
    return ADAM(parameters, lr=0.02, betas=(0.8, 0.9))


@dataclass
class Learners:
    """K learners as in SGL: they learn alone, label for each other, learn again, and are judged."""

    first: list[mlopt.Problem]
    labels: list[mlopt.Signal]
    second: list[mlopt.Problem]
    last: mlopt.Problem
    nets: list[Net]
    memories: list[nn.Module]

    def engine(self, stacked: bool, **options: Any) -> mlopt.Engine:
        groups = [self.first, self.labels, self.second]
        if stacked:
            return mlopt.Engine([*map(mlopt.Stack, groups), self.last], **options)
        return mlopt.Engine([n for group in groups for n in group] + [self.last], **options)


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=F64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))


def learners(
    k: int,
    kind: str = "sgd",
    noise: float = 0.0,
    own_streams: bool = False,
    shared: bool = False,
    start: int = 0,
    **options: Any,
) -> Learners:
    """The graph; with `shared`, all learners have one architecture."""
    group = range(k)
    nets = [seeded(1 + j, Net) for j in range(2 * k)]
    V = [mlopt.Variable(nets[j], f"v{j}") for j in group]
    W = [mlopt.Variable(nets[k + j], f"w{j}") for j in group]
    count = 1 if shared else k
    start_at = torch.linspace(-0.3, 0.4, 2 * count, dtype=F64).view(count, 2)
    A = [mlopt.Variable(nn.Parameter(a.clone()), f"a{j}") for j, a in enumerate(start_at)]
    of = [A[0] if shared else A[j] for j in group]
    streams = [mlopt.Stream(images(4, 10 + (j if own_streams else 0))) for j in group]
    train = streams if own_streams else [streams[0]] * k
    unlabelled, valid = mlopt.Stream(images(3, 20, False)), mlopt.Stream(images(5, 30))
    memories = [Memory() for _ in group]

    def alone(j: int) -> tuple[mlopt.Problem, mlopt.Signal]:
        @mlopt.problem(
            over=V[j], given=[of[j]], data=train[j], optimizer=optimizer(kind, V[j].parameters()),
            clip=0.5, **options,
        )  # fmt: skip
        def first(v, a, batch):
            x, y = batch
            loss = cross_entropy(dropout(v(x, a), noise), y)
            return loss, {"half": loss.detach() / 2, "constant": 7}

        memory = memories[j]

        @mlopt.signal(given=[V[j], of[j]], data=unlabelled, state=memory)
        def labels(v, a, u):
            answers = v(u, a).softmax(-1)
            memory.mean.mul_(0.5).add_(answers.detach().mean(0))
            memory.seen.add_(1)
            return {"labels": answers * memory.mean, "of": answers.detach().argmax(-1)}

        return first, labels

    pairs = [alone(j) for j in group]

    def again(j: int) -> mlopt.Problem:
        @mlopt.problem(
            over=W[j], given=[of[j], [pairs[i][1] for i in group if i != j]],
            data=(train[j], unlabelled), optimizer=optimizer(kind, W[j].parameters()), **options,
        )  # fmt: skip
        def second(w, a, teachers, batch):
            (x, y), u = batch
            answers = w(u, a)
            taught = sum(cross_entropy(answers, t["labels"]) for t in teachers)
            hard = sum(cross_entropy(answers, t["of"]) for t in teachers)
            return cross_entropy(dropout(w(x, a), noise), y) + taught + 0.1 * hard

        return second

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=optimizer(kind, [a.value for a in A]))
    def last(a, w, batch):
        x, y = batch
        mine = [a[0]] * k if shared else a
        return sum(cross_entropy(w[j](x, mine[j]), y) for j in group)

    first, labels = [p for p, _ in pairs], [s for _, s in pairs]
    return Learners(first, labels, [again(j) for j in group], last, nets, memories)


def close(a: Any, b: Any, tolerance: float) -> None:
    """Equal relative to the size of each tensor; what is no tensor, exactly."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            close(a[key], b[key], tolerance)
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            close(x, y, tolerance)
    elif isinstance(a, Tensor) and a.is_floating_point():
        assert a.shape == b.shape
        assert (a - b).norm() <= tolerance * b.norm(), (a, b)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b, (a, b)


def by_name(gradient: dict[mlopt.Variable, Any]) -> dict[str, Any]:
    return {v.name: tensors for v, tensors in gradient.items()}


def run(stacked: bool, make: Callable[[], Learners], steps: int = 3, **options: Any) -> Any:
    """Hypergradients before each step, the metrics, and all that a step changes.

    What a step changes has the gradients of all problems in it; some are asked for on their own.
    """
    made = make()
    engine = made.engine(stacked, **options)
    seen = []
    for _ in range(steps):
        gradients = {
            engine.graph.labels[p]: by_name(engine.hypergradient(p))
            for p in (made.first[-1], made.second[0], made.last)
        }
        metrics = engine.step()
        seen.append((gradients, metrics, engine.signals))
    return seen, state_of(engine, *made.memories), engine


PRODUCTS = [(Exact(), 1e-12), (Central(0.01), 1e-8), (OneSided(0.01), 1e-8)]


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=["exact", "central", "one_sided"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_stack_gives_the_numbers_of_the_list_without_it(k, kind, product, tolerance):
    def make() -> Learners:
        return learners(k, kind, own_streams=k == 3)

    method = OneStep(0.1, product) if k == 3 else OneStep(product=product)
    plain, before, _ = run(False, make, hypergrad=method)
    seen, after, engine = run(True, make, hypergrad=method)
    tolerance *= 10 if kind == "adam" else 1  # it divides by the size of small gradients
    close(seen, plain, tolerance)
    close(after, before, tolerance)
    assert "evaluated as one: first#1, first#2" in str(engine.plan())
    moved = [t for g, _, _ in seen for t in g["last"].values()]
    assert all(t[""].norm() > 1e-6 for t in moved)


@pytest.mark.parametrize(("product", "tolerance"), PRODUCTS, ids=["exact", "central", "one_sided"])
def test_all_learners_may_read_one_variable(product, tolerance):
    method = OneStep(product=product)
    plain, before, _ = run(False, lambda: learners(3, shared=True), hypergrad=method)
    seen, after, _ = run(True, lambda: learners(3, shared=True), hypergrad=method)
    close(seen, plain, tolerance)
    close(after, before, tolerance)


@pytest.mark.parametrize(
    "schedule",
    [Sequential(), UpperFirst(), None],
    ids=["sequential", "upper_first", "simultaneous"],
)
@pytest.mark.parametrize("repeat", [1, 2])
def test_every_schedule_and_repeats(schedule, repeat):
    def make() -> Learners:
        return learners(3, repeat=repeat)

    frozen = isinstance(schedule, Sequential) or repeat > 1
    method = Frozen() if frozen else OneStep()
    plain, before, _ = run(False, make, hypergrad=method, schedule=schedule)
    seen, after, engine = run(True, make, hypergrad=method, schedule=schedule)
    close(seen, plain, 1e-12)
    close(after, before, 1e-12)
    if repeat == 1:
        assert "as one: second#1, second#2, second#3" in str(engine.plan())


def test_members_may_take_turns_of_their_own():
    def turns(made: Learners) -> Any:
        turn = [(made.first[0], 3), *((p, 1) for p in made.first[1:])]
        return Alternate(*turn, *((p, 1) for p in made.second), (made.last, 1))

    def run_turns(stacked: bool) -> Any:
        made = learners(2)
        engine = made.engine(stacked, hypergrad=Frozen(), schedule=turns(made))
        return [engine.step() for _ in range(3)], state_of(engine, *made.memories)

    close(run_turns(True), run_turns(False), 1e-12)


# What a call is.


@dataclass
class Calls:
    """Counts the calls of modules of one type."""

    count: int = 0

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        self.count += isinstance(module, Net)


@pytest.fixture
def calls():
    counter = Calls()
    hook = nn.modules.module.register_module_forward_pre_hook(counter)
    yield counter
    hook.remove()


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize(("product", "more"), [(Exact(), 0), (Central(), 4), (OneSided(), 2)])
def test_a_stack_is_called_once_and_the_plan_counts_every_member(k, product, more, calls):
    made = learners(k)
    engine = made.engine(True, hypergrad=OneStep(product=product))
    plan = engine.plan()
    engine.step()
    calls.count, before = 0, engine._evaluator.count.copy()
    engine.step()
    # first, labels, second (two calls of its network), last (one for each of its networks)
    assert calls.count == 4 + k + (more // 2) * 3
    assert plan.evaluations == (engine._evaluator.count - before).total() == k * (3 + more) + 1


def test_uppers_of_a_stack_pull_back_their_own_lowers_together(calls):
    """K independent problems of two levels: one call for each level and displaced evaluation."""

    def make(stacked: bool) -> Any:
        lowers, uppers = [], []
        for j in range(4):
            W = mlopt.Variable(seeded(j, Net), f"w{j}")
            A = mlopt.Variable(nn.Parameter(torch.tensor([0.1 * j, -0.2], dtype=F64)), f"a{j}")
            train, valid = images(3, j), images(3, 9 + j)

            @mlopt.problem(over=W, given=[A], data=train, optimizer=SGD(W.parameters(), lr=0.1))
            def lower(w, a, batch):
                return cross_entropy(w(batch[0], a), batch[1])

            @mlopt.problem(over=A, given=[W], data=valid, optimizer=SGD([A.value], lr=0.1))
            def upper(a, w, batch):
                return cross_entropy(w(batch[0], a), batch[1])

            lowers.append(lower)
            uppers.append(upper)
        entries = [mlopt.Stack(lowers), mlopt.Stack(uppers)] if stacked else [*lowers, *uppers]
        return mlopt.Engine(entries, hypergrad=OneStep(product=Central()))

    plain, stacked = make(False), make(True)
    for _ in range(3):
        close(stacked.step(), plain.step(), 1e-8)
    close(state_of(stacked), state_of(plain), 1e-8)
    calls.count = 0
    stacked.step()
    assert calls.count == 2 + 2


@pytest.mark.parametrize("product", [Exact(), Central(), OneSided()])
def test_one_member_alone_may_be_pulled_back(product, calls):
    """The others go along, where evaluations are displaced, and are not counted."""

    def make(stacked: bool) -> mlopt.Engine:
        A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2], dtype=F64)), "a")
        W = [mlopt.Variable(seeded(j, Net), f"w{j}") for j in range(3)]

        def learner(w: mlopt.Variable) -> mlopt.Problem:
            @mlopt.problem(over=w, given=[A], data=data, optimizer=SGD(w.parameters(), lr=0.1))
            def lower(w, a, batch):
                return cross_entropy(w(batch[0], a), batch[1])

            return lower

        @mlopt.problem(over=A, given=[W[1]], data=images(3, 2), optimizer=SGD([A.value], lr=0.1))
        def upper(a, w, batch):
            return cross_entropy(w(batch[0], a), batch[1])

        data = mlopt.Stream(images(3, 1))
        lowers = [learner(w) for w in W]
        entries = [mlopt.Stack(lowers)] if stacked else lowers
        return mlopt.Engine([*entries, upper], hypergrad=OneStep(product=product))

    plain, stacked = make(False), make(True)
    for _ in range(3):
        close(stacked.step(), plain.step(), 1e-8)
    close(state_of(stacked), state_of(plain), 1e-8)
    calls.count, before = 0, stacked._evaluator.count.copy()
    planned = stacked.plan().per_node
    stacked.step()
    counted = stacked._evaluator.count - before
    assert {n: f for n, (f, _) in planned.items()} == dict(counted)
    assert calls.count == 2 + product.cost.evaluations


# Randomness.


@pytest.mark.parametrize("product", [Exact(), Central(), OneSided()])
def test_twice_gives_the_same_bits_and_changes_nothing(product):
    made = learners(3, noise=0.3)
    engine = made.engine(True, hypergrad=OneStep(product=product))
    for _ in range(2):
        engine.step()
    before = state_of(engine, *made.memories)
    first = [engine.hypergradient(p) for p in engine.graph.problems]
    second = [engine.hypergradient(p) for p in engine.graph.problems]
    for a, b in zip(first, second, strict=True):
        assert_same(list(a.values()), list(b.values()))
    assert_same(before, state_of(engine, *made.memories))


def test_displaced_evaluations_see_the_masks_of_the_base_evaluation():
    """Differences of the same masks tend to the exact product; of others they would not."""
    exact, central, sided = (
        learners(3, noise=0.4).engine(True, hypergrad=OneStep(product=p))
        for p in (Exact(), Central(1e-4), OneSided(1e-6))
    )
    wanted = by_name(exact.hypergradient(exact.graph.problems[-1]))
    close(by_name(central.hypergradient(central.graph.problems[-1])), wanted, 1e-5)
    close(by_name(sided.hypergradient(sided.graph.problems[-1])), wanted, 1e-4)


def test_members_draw_different_numbers_and_the_seed_decides_them():
    def losses(seed: int) -> list[float]:
        made = learners(2, noise=0.5)
        made.nets[1].load_state_dict(made.nets[0].state_dict())
        for p in made.first:
            p.over[0].value.load_state_dict(made.nets[0].state_dict())
        made.last.over[1].value.data.copy_(made.last.over[0].value.data)
        metrics = made.engine(True, hypergrad=Frozen(), seed=seed).step()
        return [metrics[f"first#{j}/loss"].item() for j in (1, 2)]

    assert losses(1) == losses(1) != losses(2)
    assert losses(1)[0] != losses(1)[1]


# What cannot be stacked.


def net_problem(j: int, fn: Any = None, **options: Any) -> mlopt.Problem:
    W = mlopt.Variable(options.pop("net", None) or mlp(seed=j), f"w{j}")
    fn = fn or (lambda w, batch: mse_loss(w(batch[0]), batch[1]))
    options.setdefault("data", batches(2, seed=j))
    options.setdefault("optimizer", SGD(W.parameters(), lr=0.1))
    return mlopt.problem(over=W, name=f"p{j}", **options)(fn)


def test_what_is_declared_otherwise_is_named():
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    B = mlopt.Variable(nn.Parameter(torch.zeros(4, dtype=F64)), "b")
    given = lambda w, a, batch: mse_loss(w(batch[0]), batch[1]) + a.sum()  # noqa: E731
    stream = mlopt.Stream(batches(2))
    signal = mlopt.signal(given=[A], name="s")(lambda a: a)
    cases: list[tuple[str, list[Any]]] = [
        ("differ in kind", [net_problem(1), signal]),
        ("differ in start: 0 and 1", [net_problem(1), net_problem(2, start=1)]),
        ("differ in every: 1 and 2", [net_problem(1), net_problem(2, every=2)]),
        ("differ in repeat: 1 and 3", [net_problem(1), net_problem(2, repeat=3)]),
        ("differ in having an optimizer", [net_problem(1), net_problem(2, optimizer=None)]),
        ("differ in arguments", [net_problem(1), net_problem(2, net=mlp(features=4))]),
        ("differ in arguments", [net_problem(1), net_problem(2, given, given=[A])]),
        (
            "differ in arguments",
            [net_problem(1, given, given=[A]), net_problem(2, given, given=[B])],
        ),
        (
            "differ in arguments",
            [net_problem(1, given, given=[A]), net_problem(2, given, given=[mlopt.stop(A)])],
        ),
        (
            "differ in arguments",
            [net_problem(1, given, given=[A]), net_problem(2, given, given=[[A]])],
        ),
        ("differ in data", [net_problem(1), net_problem(2, lambda w: w[0].bias.sum(), data=None)]),
        ("share a stream", [*(net_problem(j, data=stream) for j in (1, 2)), net_problem(3)]),
        ("listed twice", [signal, signal]),
        ("holds a Variable", [A, B]),
    ]
    for message, members in cases:
        with pytest.raises(mlopt.GraphError, match=message):
            mlopt.Stack(members)


def test_members_have_one_method():
    problems = [net_problem(1, hypergrad=OneStep()), net_problem(2, hypergrad=OneStep(0.1))]
    with pytest.raises(mlopt.GraphError, match="differ in method: OneStep.. and OneStep"):
        mlopt.Engine([mlopt.Stack(problems)])


@pytest.mark.parametrize("through", [False, True])
def test_members_do_not_read_one_another(through):
    W = [mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), f"w{j}") for j in range(2)]
    signals = [mlopt.signal(given=[w], name=f"s{w.name}")(lambda w: 2 * w) for w in W]
    read = [signals[1], signals[0]] if through else [W[1], W[0]]

    def player(j: int) -> mlopt.Problem:
        made = mlopt.problem(
            over=W[j], given=[read[j]], optimizer=SGD([W[j].value], lr=0.1), name=f"p{j}"
        )
        return made(lambda w, other: (w * other).sum())

    entries = [*signals, mlopt.Stack([player(0), player(1)])]
    with pytest.raises(mlopt.GraphError, match="do not read one another"):
        mlopt.Engine(entries if through else entries[2:], hypergrad=Frozen())


@pytest.mark.parametrize("what", ["index", "layer", "gradient"])
def test_functions_that_differ_are_found_before_the_first_step(what):
    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            if what == "index":
                return mse_loss(w(batch[0]), batch[1]) * (1 + 0.01 * j)
            if what == "gradient" and j == 1:
                return mse_loss(w(batch[0]), batch[1]) + 0 * w[0].weight.detach().sum()
            if what == "gradient":
                h = w[0](batch[0])
                return mse_loss(w[2](w[1](h.detach() + 0.5 * (h - h.detach()))), batch[1])
            return mse_loss(w(batch[0]), batch[1])

        net = mlp(seed=j)
        if what == "layer" and j == 2:
            net[1] = nn.ReLU()
        return net_problem(j, loss, net=net)

    problems = [learner(1), learner(2)]
    engine = mlopt.Engine([mlopt.Stack(problems)])
    before = state_of(engine)
    with pytest.raises(mlopt.GraphError, match="p2 is evaluated by the function of p1") as caught:
        engine.step()
    assert ("another gradient" in str(caught.value)) == (what == "gradient")
    assert_same(before, state_of(engine))


def test_functions_that_differ_are_found_behind_dropout():
    """All members draw the same numbers in the comparison."""

    def engine(factor: float) -> mlopt.Engine:
        def learner(j: int) -> mlopt.Problem:
            def loss(w, batch):
                h = torch.tanh(w[0](batch[0]))
                noise = torch.randn_like(h) * torch.rand(4, dtype=F64)
                return mse_loss(w[2](dropout(h, 0.5) + noise), batch[1]) * factor**j

            return net_problem(j, loss)

        return mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])

    engine(1.0).step()
    with pytest.raises(mlopt.GraphError, match="p2 is evaluated by the function of p1"):
        engine(1.01).step()


def test_what_vmap_cannot_run_is_said_once_and_runs_one_by_one():
    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            value = mse_loss(w(batch[0]), batch[1])
            return value * 2 if value.item() > 0 else value

        return net_problem(j, loss)

    plain = mlopt.Engine([learner(1), learner(2)])
    engine = mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])
    with pytest.warns(mlopt.CapabilityWarning, match="p1, p2 are evaluated one by one.*item"):
        engine.step()
    plain.step()
    for _ in range(2):
        assert_same(engine.step(), plain.step())
    assert_same(state_of(engine), state_of(plain))
    assert "evaluated one by one, not stacked" in str(engine.plan())


def test_what_vmap_cannot_run_later_on_runs_one_by_one_from_then():
    seen: list[int] = []

    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            value = mse_loss(w(batch[0]), batch[1])
            seen.append(j)
            return value * 2 if len(seen) > 12 and value.item() > 0 else value

        return net_problem(j, loss)

    engine = mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])
    with pytest.warns(mlopt.CapabilityWarning, match="item") as caught:
        engine.run(steps=10, progress=False)
    assert len(caught) == 1


def test_batches_of_different_sizes_are_evaluated_one_by_one():
    """As at the end of an epoch of loaders of unequal length."""

    def learner(j: int) -> mlopt.Problem:
        short = [batches(1, size=6, seed=j)[0], batches(1, size=6 - j, seed=j)[0]]
        return net_problem(j, data=short)

    plain = mlopt.Engine([learner(1), learner(2)])
    engine = mlopt.Engine([mlopt.Stack([learner(1), learner(2)])])
    for _ in range(4):
        close(engine.step(), plain.step(), 1e-12)
    close(state_of(engine), state_of(plain), 1e-12)


@pytest.mark.parametrize(
    "method",
    [
        mlopt.Implicit(product=Central()),
        mlopt.Sama(),
        mlopt.ZerothOrder(method=OneStep(0.1), samples=2),
        mlopt.Unrolled(2),
        mlopt.StopGradient(OneStep()),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")
def test_methods_without_a_common_pullback_run_one_by_one(method):
    def make() -> Learners:
        made = learners(2)
        for p in (*made.first, *made.second):
            p.clip = None
        return made

    plain, before, _ = run(False, make, steps=2, hypergrad=method)
    seen, after, engine = run(True, make, steps=2, hypergrad=method)
    close(seen, plain, 1e-9)
    close(after, before, 1e-9)
    stopped = isinstance(method, mlopt.StopGradient)
    assert ("evaluated as one: first" in str(engine.plan())) == stopped


def test_one_learner_is_a_stack_too():
    plain, before, _ = run(False, lambda: learners(2), hypergrad=OneStep())
    made = learners(2)
    engine = mlopt.Engine(
        [mlopt.Stack([p]) for p in (*made.first, *made.labels, *made.second)] + [made.last],
        hypergrad=OneStep(),
    )
    for _, metrics, _ in plain:
        assert_same(engine.step(), metrics)
    assert_same(state_of(engine, *made.memories), before)


# A step that goes wrong.


@pytest.mark.parametrize("kind", ["nan", "exception"])
def test_a_step_that_fails_commits_nothing_of_any_member(kind):
    bad = {"now": False}

    def learner(j: int) -> mlopt.Problem:
        def loss(w, batch):
            if bad["now"] and kind == "exception":
                raise RuntimeError("injected")
            value = mse_loss(w(batch[0]), batch[1])
            return value * batch[0].new_tensor(float("nan")) if bad["now"] else value

        net = seeded(j, lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4),
                                              nn.Linear(4, 1)))  # fmt: skip
        return net_problem(j, loss, net=net)

    engine = mlopt.Engine([mlopt.Stack([learner(j) for j in (1, 2, 3)])])
    twin = mlopt.Engine([learner(j) for j in (1, 2, 3)])
    engine.step()
    twin.step()
    before = copy.deepcopy(state_of(engine))
    bad["now"] = True
    with pytest.raises(mlopt.NonFiniteError if kind == "nan" else RuntimeError):
        engine.step()
    assert_same(before, state_of(engine))
    bad["now"] = False
    close(engine.step(), twin.step(), 1e-12)
    close(state_of(engine), state_of(twin), 1e-12)


def test_the_graph_says_who_is_stacked():
    engine = learners(2).engine(True, hypergrad=OneStep())
    assert "stacked with first#2" in str(engine.graph)
    assert "Stack([first, first])" in repr(mlopt.Stack(learners(2).first))


# The benchmark.


def test_the_benchmark_compares_equal_engines(capsys, tmp_path):
    arguments = ["--sizes", "mlp 16", "conv 8", "--learners", "2", "--pairs", "1"]
    rows = stacked_learners.main([*arguments, "--output", str(tmp_path / "table.md")])
    assert [r["network"] for r in rows] == ["mlp 16", "conv 8"]
    assert all(float(r["difference"]) < 1e-6 for r in rows)
    assert stacked_learners.difference("conv 8", 3, "exact", "cpu") < 1e-11
    assert "stacked / one by one" in (tmp_path / "table.md").read_text() in capsys.readouterr().out

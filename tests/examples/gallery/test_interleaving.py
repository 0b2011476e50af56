"""Interleaving learning: every path of its hypergradient by itself, its cost, and its worth."""

import importlib
import re
import sys
from itertools import pairwise

import pytest
import torch
from compare import exact, kills
from oracles import Composed, assert_same_gradients, sweep_rounding
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import mlopt
from examples.gallery import interleaving as example
from mlopt import Central, Exact, Frozen, OneStep

PULL = 2.0  # strong, so that what passes three levels is not lost beside the rest

#: The ways on which A acts on the validation losses.
PATHS = [
    ("a", "top"),
    ("a", "1", "top"),
    ("a", "2", "top"),
    ("a", "3", "top"),
    ("a", "1", "2", "top"),
    ("a", "2", "3", "top"),
    ("a", "1", "2", "3", "top"),
]
EDGES = {edge for path in PATHS for edge in pairwise(path)}


@pytest.fixture
def tasks():
    """Three small tasks in float64: rows of two pictures of three pixels."""
    g = torch.Generator().manual_seed(0)

    def rows(classes):
        x = torch.randn(7, 2, 3, generator=g, dtype=torch.float64)
        return x, torch.randint(classes, (7,), generator=g)

    return [example.Task(c, rows(c), rows(c), rows(c)) for c in (4, 2, 3)]


@pytest.fixture
def a():
    return nn.Parameter(torch.tensor([0.3, -0.4]).double())


def build(tasks, a, **options):
    engine, learners = example.build(tasks, a, pull=PULL, hidden=4, **options)
    return engine, learners, engine.graph.problems[-1]


def hypergradient(engine, top):
    ((found,),) = (tensors.values() for tensors in engine.hypergradient(top).values())
    return found


# Path by path.


def by_hand(tasks, a, learners, open_edges):
    """dL/dA of one program of three SGD steps, through these edges alone."""
    a = a.detach().clone().requires_grad_()

    def read(values, source, reader):
        if (source, reader) in open_edges:
            return values
        return [{k: t.detach() for k, t in part.items()} for part in values]

    def loss(a, one, values, rows):
        x, y = rows
        scale = 2 * torch.exp(a) / torch.exp(a).sum()
        codes = functional_call(one.w.value, values[0], ((x * scale[None, :, None]).flatten(1),))
        return cross_entropy(functional_call(one.h.value, values[1], (codes,)), y)

    def a_for(reader):
        return a if ("a", reader) in open_edges else a.detach()

    ahead = {}
    for k, (one, task) in enumerate(zip(learners, tasks, strict=True), 1):
        values = [
            {n: p.detach().clone().requires_grad_() for n, p in v.named_parameters().items()}
            for v in (one.w, one.h)
        ]
        value = loss(a_for(str(k)), one, values, task.train)
        if k > 1:
            before = read(ahead[k - 1], str(k - 1), str(k))[0]
            value = value + PULL * sum(((values[0][n] - before[n]) ** 2).sum() for n in before)
        ahead[k] = []
        for part in values:
            grads = torch.autograd.grad(value, list(part.values()), create_graph=True)
            ahead[k].append(
                {  # the first step of SGD with momentum, and its decay
                    n: p.detach() - 0.1 * (g + example.DECAY * p.detach())
                    for (n, p), g in zip(part.items(), grads, strict=True)
                }
            )
    total = sum(
        loss(a_for("top"), one, read(ahead[k], str(k), "top"), task.valid)
        for k, (one, task) in enumerate(zip(learners, tasks, strict=True), 1)
    )
    return torch.autograd.grad(total, a)[0]


def by_engine(tasks, a, open_edges):
    """The same; what A does on the top itself cannot be stopped."""
    A = mlopt.Variable(a, "a")
    learners = [example.make_learner(t, str(k), 4, 0) for k, t in enumerate(tasks, 1)]

    def read(source, name, reader):
        return source if (name, reader) in open_edges else mlopt.stop(source)

    nodes = [example.first(learners[0], read(A, "a", "1"), tasks[0].train, name="learner1")]
    for k in (2, 3):
        before = read(learners[k - 2].w, str(k - 1), str(k))
        source, rows = read(A, "a", str(k)), tasks[k - 1].train
        nodes.append(example.later(learners[k - 1], before, source, rows, PULL, name=f"learner{k}"))
    ws, hs = (
        [read(v, str(k), "top") for k, v in enumerate(part, 1)]
        for part in zip(*((one.w, one.h) for one in learners), strict=True)
    )
    top = example.architecture(A, ws, hs, [t.valid for t in tasks])
    return hypergradient(mlopt.Engine([*nodes, top], hypergrad=OneStep()), top)


@pytest.mark.parametrize("path", PATHS, ids="-".join)
def test_each_path_by_itself(path, tasks, a):
    _, learners, _ = build(tasks, a)
    edges = set(pairwise(path))
    expected = by_hand(tasks, a, learners, edges)
    found = by_engine(tasks, a, edges | {("a", "top")})
    bound = sweep_rounding(3)
    if path != ("a", "top"):  # a difference of two gradients
        direct = by_engine(tasks, a, {("a", "top")})
        found = found - direct
        bound *= 1 + (direct.norm() / expected.norm()).item()
    kills(2 * expected, expected, bound)
    exact(found, expected, bound)


def test_the_paths_are_all_and_none_is_negligible(tasks, a):
    engine, learners, top = build(tasks, a)
    terms = [by_hand(tasks, a, learners, set(pairwise(path))) for path in PATHS]
    whole = by_hand(tasks, a, learners, EDGES)
    exact(sum(terms), whole, sweep_rounding(3))
    exact(hypergradient(engine, top), whole, sweep_rounding(3))
    assert min(t.norm() for t in terms) > 1e-3 * whole.norm()


def test_frozen_learners_leave_the_direct_term(tasks, a):
    engine, learners, top = build(tasks, a, hypergrad=Frozen())
    A = a.detach().clone().requires_grad_()
    total = sum(
        example.loss(A, one.w.value, one.h.value, t.valid)
        for one, t in zip(learners, tasks, strict=True)
    )
    expected = torch.autograd.grad(total, A)[0]
    exact(hypergradient(engine, top), expected, sweep_rounding(0))


@pytest.mark.parametrize("rounds", [1, 2])
def test_in_the_middle_of_a_run_it_is_the_composed_steps(tasks, a, rounds, monkeypatch):
    """With the momentum of two steps; two rounds are seven levels."""

    def distance(w, before):  # the oracle's modules hold plain tensors, not parameters
        pairs = [(w[0].weight, before[0].weight), (w[0].bias, before[0].bias)]
        return sum(((p - q) ** 2).sum() for p, q in pairs)

    monkeypatch.setattr(example, "distance", distance)
    engine, _, top = build(tasks, a, rounds=rounds)
    assert len(engine.graph.nodes) == 3 * rounds + 1
    engine.step()
    engine.step()
    batches = [task.train for task in tasks] * rounds + [tuple(task.valid for task in tasks)]
    batch = dict(zip(engine.graph.nodes, batches, strict=True)).__getitem__
    oracle = Composed(list(engine.graph.nodes), OneStep(), batch)
    for problem in engine.graph.problems:
        found, expected = engine.hypergradient(problem), oracle.hypergradient(problem)
        assert_same_gradients(found, expected, sweep_rounding(3 * rounds), problem.name)


def test_the_audit_agrees(tasks, a):
    engine, _, _ = build(tasks, a)
    mlopt.audit(engine).check(tolerance=1e-6)


# The graph and its cost.


def test_the_graph_is_the_chain(tasks, a):
    engine, _, top = build(tasks, a)
    lines = str(engine.graph).splitlines()
    assert [line.split()[0] for line in lines] == ["learner1", "learner2", "learner3", "validation"]
    assert [node.name for node in engine.graph.sweep(top).nodes] == [
        "learner3",
        "learner2",
        "learner1",
    ]


@pytest.mark.parametrize(("product", "count"), [(Exact(), 4), (Central(), 10)])
def test_a_step_makes_the_planned_evaluations(tasks, a, product, count, monkeypatch):
    """Four levels, each evaluated once; two more for each learner by central differences."""
    engine, _, _ = build(tasks, a, hypergrad=OneStep(product=product))
    engine.step()  # the checks before the first step are no part of it
    assert engine.plan().evaluations == count
    calls = []
    for node in engine.graph.nodes:
        monkeypatch.setattr(node, "fn", lambda *args, fn=node.fn: calls.append(1) or fn(*args))
    engine.step()
    assert len(calls) == count


# The tasks and the result.


def test_the_label_is_that_of_the_asked_picture():
    tasks = example.make_tasks(3)
    digits = example.load("digits")
    of = {img.flatten().float().numpy().tobytes(): int(y) for img, y in zip(
        torch.cat([digits.train_images, digits.test_images]),
        torch.cat([digits.train_labels, digits.test_labels]), strict=True)}  # fmt: skip
    seen = []
    for task, (question, *sizes) in zip(tasks, example.QUESTIONS.values(), strict=True):
        assert [len(task.train[1]), len(task.valid[1])] == sizes
        for x, y in (task.train, task.valid, task.test):
            assert x.shape[1:] == (example.PICTURES, 64)
            keys = [(16 * row[example.ASKED]).numpy().tobytes() for row in x]
            assert torch.equal(question(torch.tensor([of[k] for k in keys])), y)
            seen.extend(keys if x is not task.test[0] else [])
            other = question(torch.tensor([of[(16 * row[0]).numpy().tobytes()] for row in x]))
            assert (other == y).double().mean() < 0.7
    assert len(seen) == len(set(seen)) == 370


def test_derive_keeps_one_picture():
    kept = example.derive(torch.tensor([0.1, 0.2, 0.9, 0.3, 0.0]))
    assert torch.equal(kept.softmax(0), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert torch.equal(kept, example.only(2))


def test_a_waits_while_the_learners_are_trained():
    tasks = example.make_tasks(0)
    engine, learners = example.build(tasks, a := nn.Parameter(torch.zeros(5)), start=3)
    before = [p.detach().clone() for one in learners for p in one.w.parameters()]
    engine.run(epochs=3, progress=False)
    assert not a.any()
    after = [p for one in learners for p in one.w.parameters()]
    assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True))
    engine.run(epochs=1, progress=False)
    assert a.all()


@pytest.mark.slow  # in every run the tutorial searches, and what it prints is compared
@pytest.mark.parametrize("seed", [0, 4])
def test_the_search_finds_the_picture_and_the_chain_helps_the_small_tasks(seed):
    tasks = example.make_tasks(seed)
    a = example.search(tasks, 100, seed=seed)
    assert a.softmax(0)[example.ASKED] > 0.5

    def mean(a, pull):
        learners = example.train(tasks, a, 100, seed=seed, pull=pull)
        scores = [example.accuracy(a, one, t.test) for one, t in zip(learners, tasks, strict=True)]
        return sum(scores) / len(scores)

    found = example.derive(a)
    interleaved, alone = mean(found, example.PULL), mean(found, 0.0)
    assert interleaved > alone + 1
    assert interleaved > mean(torch.zeros(example.PICTURES), 0.0) + 8


def test_the_example_ends_with_a_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["interleaving.py", "--seeds", "1", "--steps", "1"])
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("all", "A searched", "the right")) for line in lines) == 5


# The tutorial.


def test_the_tutorial_prints_what_it_says(request, tmp_path, monkeypatch, capsys):
    page = request.config.rootpath / "docs" / "tutorial-new-scheme.md"
    if not page.exists():
        pytest.skip("no docs beside these tests")
    pattern = r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?"
    monkeypatch.syspath_prepend(tmp_path)
    compared = 0
    with torch.random.fork_rng(devices=[]):
        for i, (source, expected) in enumerate(
            re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
        ):
            first = re.match(r"# (\w+)\.py\n", source)
            name = first.group(1) if first else f"tutorial_{i}"
            (tmp_path / f"{name}.py").write_text(source)
            monkeypatch.setitem(sys.modules, name, None)  # taken out again after the test
            del sys.modules[name]
            importlib.import_module(name)
            assert capsys.readouterr().out.rstrip() == expected.rstrip(), source
            compared += bool(expected)
    assert compared == 7

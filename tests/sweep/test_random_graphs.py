"""The sweep law on random graphs, staged and nested.

A criterion of this file, by brute force over dependency paths, says which are which.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from case_graphs import parameter
from compare import exact
from nested_oracle import Fixed, Nested, Steps, Stopped
from optimizer_steps import torch_update
from oracles import Composed, assert_same_gradients, moved_rounding, sweep_rounding
from sweep.random_graphs import draw_graph
from torch import nn

import mlopt
from mlopt import Frozen, OneStep, StopGradient

SEEDS = range(220)
BLOCK = 7


# The criterion.


def is_nested(nodes: list[Any]) -> bool:
    """Whether the value or gradient of any level depends on how nested levels are meant.

    That is so if a way of dependencies leads from a problem back to its own variable and on it a
    node reads the variable of a *higher* problem that moves below the first; or if a moving problem
    that others read from above is itself steered by what lower problems do.
    """
    place = {n: i for i, n in enumerate(nodes)}
    owner = {v: p for p in nodes if isinstance(p, mlopt.Problem) for v in p.over}
    for upper in owner.values():
        ways = list(_ways(upper, nodes, place, owner))
        if any(rises for _, rises in ways):
            return True
        read_above = any(
            r.source in upper.over and place[n] > place[upper] for n in nodes for r in n.reads
        )
        if read_above and not isinstance(upper.hypergrad, Frozen) and ways:
            return True
    return False


def _ways(upper: Any, nodes: list[Any], place: Any, owner: Any) -> Any:
    """Every way from a problem back to its own variable through at least one other node."""

    def walk(node: Any, rises: bool, passed: tuple[Any, ...]) -> Any:
        for read in node.reads:
            if read.stopped:
                continue
            if read.source in upper.over:
                if node is not upper:
                    yield passed, rises
                continue
            below = owner.get(read.source, read.source)
            if below is node or place[below] >= place[upper]:
                continue
            if isinstance(below, mlopt.Problem) and not isinstance(below.hypergrad, OneStep):
                continue
            up = rises or place[below] > place[node]
            if (node, below, up) not in tried:  # ways that differ in their beginning end alike
                tried.add((node, below, up))
                yield from walk(below, up, (*passed, below))

    tried: set[Any] = set()
    yield from walk(upper, False, ())


# The tests.


@pytest.mark.parametrize("first", range(0, 2 * BLOCK, BLOCK))
def test_random_graphs(first: int, device: torch.device) -> None:
    _check_block(first, device)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2 * BLOCK, SEEDS.stop, BLOCK))
def test_more_random_graphs(first: int, device: torch.device) -> None:
    _check_block(first, device)


def _check_block(first: int, device: torch.device) -> None:
    for seed in range(first, first + BLOCK):
        _check(draw_graph(seed, device), f"graph {seed}")


def kind_of(method: Any) -> Any:
    """What the oracle of nested levels calls a method."""
    if isinstance(method, StopGradient):
        return Stopped(kind_of(method.method))
    return Steps(1, method.lr) if isinstance(method, OneStep) else Fixed()


def _check(nodes: list[Any], label: str) -> None:
    engine = mlopt.Engine(nodes, seed=5)
    problems = [n for n in nodes if isinstance(n, mlopt.Problem)]
    nested = Nested(nodes, {p: kind_of(p.hypergrad) for p in problems}, seed=engine.seed_of)
    # Steps of lr 1 inside steps of lr 1, six deep, are chaos: rounding is all that would be tested.
    problems = [p for p in problems if _steps_below(engine.graph, p) <= 4 or engine.graph.staged(p)]
    expected = {p: nested.hypergradient(p) for p in problems}
    composed = Composed(nodes, seed=engine.seed_of)
    below = {p: _steps_below(engine.graph, p) for p in problems}
    for p in problems:
        if engine.graph.staged(p):  # a second opinion
            known = {
                v: {k: t for k, t in ts.items() if t is not None}
                for v, ts in composed.hypergradient(p).items()
            }
            bound = sweep_rounding(below[p])
            assert_same_gradients(known, expected[p], bound, f"{label} {p.name} oracles")
    for p in problems:
        found = engine.hypergradient(p)
        assert_same_gradients(found, expected[p], sweep_rounding(below[p]), f"{label} {p.name}")
    if not all(engine.graph.staged(p) for p in engine.graph.problems):
        return
    before = {p: [t.detach().clone() for v in p.over for t in v.parameters()] for p in problems}
    after = {}
    for p in problems:
        parameters = [t for v in p.over for t in v.parameters()]
        gradients = [expected[p][v].get(name) for v in p.over for name in v.named_parameters()]
        after[p] = torch_update(p.optimizer, parameters, gradients)
    needed = set(problems)
    for node in reversed(nodes):
        if node in needed:
            needed.update(r.source for r in node.reads if isinstance(r.source, mlopt.Signal))
    # exact products: each node once, whatever the number of paths; a signal nobody reads, never
    assert engine.plan().evaluations == len(needed), label
    engine.step()
    for p in problems:
        parameters = [t for v in p.over for t in v.parameters()]
        for t, old, new in zip(parameters, before[p], after[p], strict=True):
            step = new - old
            bound = sweep_rounding(below[p]) + (moved_rounding(old, step) if step.any() else 0.0)
            exact(t.detach() - old, step, bound, what=f"{label} {p.name} committed")


def _steps_below(graph: mlopt.Graph, problem: Any) -> int:
    return sum(isinstance(n, mlopt.Problem) for n in graph.needed(problem)) - 1


def test_what_is_drawn(device: torch.device) -> None:
    """The generator is worth its name: many of each kind, and of each thing in the contract."""
    seen: Counter[str] = Counter()
    for seed in SEEDS[::2]:
        nodes = draw_graph(seed, device)
        problems = [n for n in nodes if isinstance(n, mlopt.Problem)]
        nested = is_nested(nodes)
        seen["nested" if nested else "staged"] += 1
        if nested:
            continue
        graph = mlopt.Engine(nodes).graph
        depth = max(_depth(graph, p) for p in problems)
        seen[f"through {depth} problems"] += 1
        reads = [r for n in nodes for r in n.reads]
        seen["stopped"] += any(r.stopped for r in reads)
        seen["chained signals"] += any(
            isinstance(r.source, mlopt.Signal) for s in graph.signals for r in s.reads
        )
        seen["signal"] += bool(graph.signals)
        seen["modules"] += any(isinstance(v.value, nn.Module) for v in graph.variables)
        seen["list of variables"] += any(len(p.over) > 1 for p in problems)
        seen["list of givens"] += any(a.is_list for n in nodes for a in n.given)
        for kind in (OneStep, Frozen, StopGradient):
            seen[kind.__name__] += any(
                isinstance(p.hypergrad, kind)
                for s in graph.sweeps.values()
                for p in _read(graph, s)
            )
    assert seen["staged"] >= 50, seen
    assert seen["nested"] >= 20, seen
    assert sum(seen[f"through {d} problems"] for d in (2, 3, 4)) >= 25, seen
    for name in (
        "through 3 problems",
        "chained signals",
        "stopped",
        "OneStep",
        "Frozen",
        "StopGradient",
    ):
        assert seen[name] >= 5, (name, seen)
    for name in ("signal", "modules", "list of variables", "list of givens"):
        assert seen[name] >= 25, (name, seen)


def _depth(graph: mlopt.Graph, upper: Any) -> int:
    """The greatest number of problems on one way of a sweep."""
    sweep, depth = graph.sweeps[upper], {}
    for node in reversed([upper, *sweep.nodes]):
        below = [graph.source_node(node, s) for s in sweep.edges[node]]
        deepest = max((depth[b] for b in below if b is not None), default=0)
        depth[node] = deepest + (isinstance(node, mlopt.Problem) and node is not upper)
    return depth[upper]


def _read(graph: mlopt.Graph, sweep: Any) -> list[Any]:
    """The problems whose values the upper problem of a non-empty sweep reads."""
    if not sweep.nodes:
        return []
    read = [graph.source_node(sweep.upper, r.source) for r in sweep.upper.reads]
    return [p for p in read if isinstance(p, mlopt.Problem)]


@pytest.mark.parametrize("reads_lowest", [False, True])
def test_three_nested_levels(reads_lowest: bool, device: torch.device) -> None:
    """The top reads the lowest solution alone: by a sweep downwards nothing would come back."""

    def nodes(method: Any, *, held: bool = False) -> list[Any]:
        W, M, A = (mlopt.Variable(parameter(device, s, 2), n) for s, n in enumerate("wma"))

        sgd = torch.optim.SGD

        @mlopt.problem(over=W, given=[mlopt.stop(M) if held else M], hypergrad=OneStep(lr=0.1),
                       optimizer=sgd(W.parameters(), lr=0.1))  # fmt: skip
        def low(w, m):
            return ((w - m) ** 2).sum()

        @mlopt.problem(over=M, given=[A, [W]] if reads_lowest else [A], hypergrad=method,
                       optimizer=sgd(M.parameters(), lr=0.1))  # fmt: skip
        def middle(m, a, lowest=()):
            return ((m - a) ** 2).sum() + sum((w * m).sum() for w in lowest)

        @mlopt.problem(over=A, given=[W], optimizer=sgd(A.parameters(), lr=0.1),
                       hypergrad=Frozen())  # fmt: skip
        def top(a, w):
            return (w * a).sum()

        return [low, middle, top]

    for method in (OneStep(lr=0.1), Frozen()):
        for held in (False, True):
            _check(nodes(method, held=held), f"{method} held={held}")
    with pytest.raises(mlopt.GraphError, match="Say how gradients pass through middle"):
        mlopt.Engine(nodes(None))

"""The sweep law on random graphs, staged and nested.

A generator draws lists of problems and signals; nothing steers it towards staged or nested graphs
but how often a node reads the variable of a higher one. A criterion of this file, by brute force
over dependency paths, says which are which.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from cases import module, parameter, tensor, warmed
from nested_oracle import Fixed, Nested, Steps, Stopped
from oracles import Composed, assert_close, assert_same_gradients, torch_update
from torch import Tensor, nn

import mlopt
from mlopt import Frozen, OneStep, StopGradient

SEEDS = range(220)
BLOCK = 20
INPUTS = 2


# The generator.


def draw_graph(seed: int, device: torch.device) -> list[Any]:
    """A list of problems and signals of 2 to 5 levels, lowest first."""
    return _Drawing(seed, device).nodes


class _Drawing:
    def __init__(self, seed: int, device: torch.device) -> None:
        self.rng, self.device, self.tensors = random.Random(seed), device, 1000 * seed
        self.nodes: list[Any] = []
        self.signals: list[Any] = []
        levels = self.rng.randint(2, 5)
        self.upward = self.rng.choice([0.0, 0.0, 0.03, 0.2])
        sizes = [
            self.rng.choice([1, 2, 2, 3] if k + 1 < levels else [1, 1, 1, 2]) for k in range(levels)
        ]
        self.over = [
            [
                [self._variable(f"{k}{i}{j}") for j in range(self.rng.choice([1, 1, 2]))]
                for i in range(n)
            ]
            for k, n in enumerate(sizes)
        ]
        self.top = [v for over in self.over[-1] for v in over]
        for level, row in enumerate(self.over):
            for over in row:
                self._problem(level, over)
            if level + 1 < levels:
                for _ in range(self.rng.choice([0, 1, 1, 2])):
                    self._signal(level)

    def _seed(self) -> int:
        self.tensors += 1
        return self.tensors

    def _variable(self, name: str) -> mlopt.Variable:
        if self.rng.random() < 0.6:
            return mlopt.Variable(
                parameter(self.device, self._seed(), self.rng.randint(1, 3)), f"v{name}"
            )
        net = nn.Sequential(nn.Linear(INPUTS, 2), nn.Tanh(), nn.Linear(2, 2))
        if self.rng.random() < 0.3:
            net[2].weight = net[0].weight
        net = module(net, self.device, self._seed())
        if self.rng.random() < 0.3:
            net[0].bias.requires_grad_(False)
        if self.rng.random() < 0.3:
            net.register_parameter("unused", parameter(self.device, self._seed(), 2))
        return mlopt.Variable(net, f"v{name}")

    def _reads(self, level: int, own: list[Any]) -> list[Any]:
        """What a node of a level reads: top variables, lower ones, signals, seldom higher ones."""
        rng = self.rng
        chosen: list[Any] = [v for v in self.top if v not in own and rng.random() < 0.75]
        for k, row in enumerate(self.over):
            for v in (v for over in row for v in over):
                near = 0.75 if k == level - 1 else 0.25
                if v in own or v in chosen or v in self.top:
                    continue
                if rng.random() < (near if k < level else self.upward):
                    chosen.append(v)
        chosen += [s for s in self.signals if rng.random() < 0.5]
        rng.shuffle(chosen)
        marked = [mlopt.stop(s) if rng.random() < 0.12 else s for s in chosen]
        given: list[Any] = []
        while marked:
            if len(marked) > 1 and rng.random() < 0.3:
                given.append([marked.pop(), marked.pop()])
            else:
                given.append(marked.pop())
        return given

    def _method(self) -> Any:
        lr = self.rng.choice([0.1, 0.5, 1.0])
        return self.rng.choices(
            [OneStep(lr=lr), OneStep(), Frozen(), StopGradient(OneStep(lr=lr))], [5, 3, 1, 1]
        )[0]

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        options = self.rng.choice(
            [
                {"lr": 0.1},
                {"lr": 0.5, "weight_decay": 0.1},
                {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01},
                {"lr": 0.3, "momentum": 0.8, "dampening": 0.5},
                {"lr": 0.2, "momentum": 0.7, "nesterov": True, "maximize": True},
            ]
        )
        return warmed(torch.optim.SGD(parameters, **options), self.rng.choice([0, 1, 2]))

    def _problem(self, level: int, over: list[Any]) -> None:
        parameters = [p for v in over for p in v.parameters()]
        objective = self._objective(len(over))
        as_list = len(over) > 1 or self.rng.random() < 0.2
        self.nodes.append(
            mlopt.problem(
                over=over if as_list else over[0],
                given=self._reads(level, over),
                optimizer=self._optimizer(parameters),
                hypergrad=self._method(),
                name=f"p{len(self.nodes)}",
            )(objective)
        )

    def _objective(self, seed: int) -> Any:
        mix, noisy = self._mixer(), self.rng.random() < 0.2

        def objective(own, *given):
            z, s = mix([own, *given])
            if noisy:
                z = z + 0.3 * torch.randn(3, dtype=z.dtype, device=z.device)
            value = (torch.tanh(z) * (1 + 0.5 * torch.sin(s))).sum()
            value = value + 0.3 * (features(own) ** 2).sum() + 0.1 * (features(own) ** 3).sum()
            return value, {"largest": z.max()}

        return objective

    def _signal(self, level: int) -> None:
        given = self._reads(level + 1, [])
        if not given:
            return
        mix, kind = self._mixer(), self.rng.choice(["tensor", "tuple", "dict"])

        def function(*given):
            z, s = mix(list(given))
            if kind == "tensor":
                return torch.sin(z) * s
            if kind == "tuple":
                return torch.tanh(z), z[:2] * torch.cos(s[:2])
            return {
                "value": torch.softmax(z * s, 0),
                "order": torch.tensor([2, 0, 1], device=z.device),
            }

        name = f"s{len(self.nodes)}"
        self.signals.append(mlopt.signal(given=given, name=name)(function))
        self.nodes.append(self.signals[-1])

    def _mixer(self) -> Any:
        """Two random projections of all that a function is given, each onto three numbers."""
        seed, device = self._seed(), self.device
        self.tensors += 50

        @cache
        def matrix(i: int, size: int, which: int) -> Tensor:
            return tensor(device, seed + 2 * i + which, 3, size, scale=0.8)

        def mix(arguments: list[Any]) -> list[Tensor]:
            parts = [features(a) for a in arguments]
            return [
                sum(matrix(i, f.numel(), which) @ f for i, f in enumerate(parts))  # type: ignore[misc]
                for which in (0, 1)
            ]

        return mix


def features(argument: Any) -> Tensor:
    """A vector of whatever a function may be given."""
    if isinstance(argument, Tensor):
        return argument.flatten()
    if isinstance(argument, nn.Module):
        return argument(tensor(argument[0].weight.device, 12345, 2, INPUTS)).flatten()
    if isinstance(argument, dict):
        return argument["value"][argument["order"]] * 1.5
    return torch.cat([features(a) for a in argument])


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


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, BLOCK))
def test_random_graphs(first: int, device: torch.device) -> None:
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
    for p in problems:
        if engine.graph.staged(p):  # a second opinion
            known = {
                v: {k: t for k, t in ts.items() if t is not None}
                for v, ts in composed.hypergradient(p).items()
            }
            assert_same_gradients(known, expected[p], 1e-12, f"{label} {p.name} oracles")
    for p in problems:
        found = engine.hypergradient(p)
        assert_same_gradients(found, expected[p], 1e-8, f"{label} {p.name}")
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
            assert_close(t.detach() - old, new - old, 1e-8, f"{label} {p.name} committed")


def _steps_below(graph: mlopt.Graph, problem: Any) -> int:
    return sum(isinstance(n, mlopt.Problem) for n in graph.needed(problem)) - 1


def test_what_is_drawn(device: torch.device) -> None:
    """The generator is worth its name: many of each kind, and of each thing in the contract."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
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
    assert seen["staged"] >= 100, seen
    assert seen["nested"] >= 40, seen
    assert sum(seen[f"through {d} problems"] for d in (2, 3, 4)) >= 50, seen
    for name in (
        "through 3 problems",
        "chained signals",
        "stopped",
        "OneStep",
        "Frozen",
        "StopGradient",
    ):
        assert seen[name] >= 10, (name, seen)
    for name in ("signal", "modules", "list of variables", "list of givens"):
        assert seen[name] >= 50, (name, seen)


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

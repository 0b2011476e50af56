"""The cost law: what the plan states before a step is what the step does, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from case_graphs import GraphRow, bilevel_module, ladder, parameter, signals
from cases import GRAPHS
from grids import thinned
from lfm_cw_case import lfm_cw

import mlopt
from mlopt import Alternate, Central, Exact, Frozen, OneSided, OneStep, Sequential, UpperFirst
from mlopt.hypergrad import derivatives as _derivatives

SGD = torch.optim.SGD


def sgd(parameters: list[Any]) -> Any:
    return SGD(parameters, lr=0.1, momentum=0.5)


class Counted:
    """Counts the calls of every function of a graph and of torch's backward."""

    def __init__(self, nodes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[Any] = Counter()
        self.backwards = 0
        for node in nodes:
            monkeypatch.setattr(node, "fn", self._wrapped(node))
        engine = _derivatives._engine()  # what is called in place of torch.autograd.grad, if it can
        monkeypatch.setattr(torch.autograd, "grad", self._backward(torch.autograd.grad))
        if engine is not None:
            monkeypatch.setattr(_derivatives, "_engine", lambda: self._backward(engine))

    def _backward(self, original: Any) -> Any:
        def grad(*args: Any, **kwargs: Any) -> Any:
            self.backwards += 1
            return original(*args, **kwargs)

        return grad

    def _wrapped(self, node: Any) -> Any:
        fn = node.fn

        def counted(*args: Any) -> Any:
            self.calls[node] += 1
            return fn(*args)

        return counted

    @contextmanager
    def equals(self, plan: mlopt.Plan) -> Iterator[None]:
        """What happens inside is what the plan says."""
        self.calls.clear()
        self.backwards = 0
        yield
        stated = {node: calls for node, (calls, _) in plan.per_node.items() if calls}
        assert dict(self.calls) == stated
        assert sum(self.calls.values()) == plan.evaluations
        assert self.backwards == plan.backwards


def checked_steps(engine: mlopt.Engine, monkeypatch: pytest.MonkeyPatch, steps: int) -> list[int]:
    """Take steps, each compared with its plan; the first one's reading check is not part of it."""
    engine.hypergradient(engine.graph.problems[0])
    counted = Counted(list(engine.graph.nodes), monkeypatch)
    found = []
    for _ in range(steps):
        plan = engine.plan()
        with counted.equals(plan):
            engine.step()
        found.append(plan.evaluations)
    return found


METHODS = {
    "frozen": Frozen(),
    "stop": mlopt.StopGradient(OneStep()),
    "exact": OneStep(),
    "central": OneStep(product=Central()),
    "one_sided": OneStep(product=OneSided()),
}


def with_schedule(case: GraphRow, kind: str) -> Any:
    problems = [p for p in case.nodes if isinstance(p, mlopt.Problem)]
    return {
        "simultaneous": mlopt.Simultaneous(),
        "sequential": Sequential(),
        "upper_first": UpperFirst(),
        "alternate": Alternate(*[(p, 2) for p in problems[:-1]], (problems[-1], 1)),
        "together": Alternate((tuple(problems[:-1]), 3), (problems[-1], 2)),
    }[kind]


KINDS = ("simultaneous", "sequential", "upper_first", "alternate", "together")


@pytest.mark.parametrize(
    ("graph", "method", "kind"),
    thinned(3, [g for g in GRAPHS if g != "hyperparameter"], METHODS, KINDS),
)
def test_the_plan_is_what_happens(
    graph: str, method: str, kind: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = GRAPHS[graph](device, lambda: METHODS[method], sgd)
    if kind == "sequential" and method != "frozen":
        with pytest.raises(mlopt.GraphError, match="Sequential"):
            mlopt.Engine(case.nodes, schedule=Sequential())
        return
    engine = mlopt.Engine(case.nodes, schedule=with_schedule(case, kind), device=device)
    checked_steps(engine, monkeypatch, 2)


@pytest.mark.parametrize("schedule", [None, UpperFirst()], ids=repr)
@pytest.mark.parametrize("method", [Frozen(), OneStep(), OneStep(product=Central())], ids=repr)
def test_start_every_and_repeat(
    method: Any, schedule: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of two batches; the middle starts late, the top is updated every third step."""
    W, V, A = (
        mlopt.Variable(parameter(device, s, 3), n) for s, n in ((1, "w"), (2, "v"), (3, "a"))
    )
    data = [torch.ones(3, device=device), torch.zeros(3, device=device)]
    other = [torch.ones(3, device=device)]

    @mlopt.problem(over=W, given=[A], data=data, optimizer=sgd([W.value]), hypergrad=method)
    def first(w, a, batch):
        return (torch.sin(w * a) + (w - batch) ** 2).sum()

    @mlopt.signal(given=[A], data=other)
    def scale(a, batch):
        return torch.tanh(a) * batch

    repeated = 3

    @mlopt.problem(
        over=V,
        given=[W, scale],
        data=other,
        optimizer=sgd([V.value]),
        start=1,
        repeat=repeated,
        hypergrad=Frozen(),
    )
    def middle(v, w, scale, batch):
        return (torch.cosh(v - w) * scale * batch).sum()

    @mlopt.problem(over=A, given=[W, V], optimizer=sgd([A.value]), every=3)
    def top(a, w, v):
        return (a * w * torch.sin(v)).sum() + (a**2).sum()

    engine = mlopt.Engine([first, scale, middle, top], schedule=schedule, device=device)
    found = checked_steps(engine, monkeypatch, 7)
    # step 0: before middle's start, top is updated; then first alone; from step 2 on middle as well
    pulled = {Exact: 0, Central: 2}[type(method.product)] if isinstance(method, OneStep) else 0
    if schedule is None:
        inner = 2 * repeated  # every inner update has its own batch, and the signal that reads it
        assert found == [
            2 + pulled,
            1,
            1 + inner,
            2 + inner + pulled,
            1 + inner,
            1 + inner,
            2 + inner + pulled,
        ]
    assert engine.epoch == 3


FIRST_ORDER = (Frozen, Sequential(), 7, 5)
SECOND_ORDER = [
    (lambda: OneStep(product=Exact()), None, 7, 10),
    (lambda: OneStep(product=OneSided()), None, 10, 10),
    (lambda: OneStep(product=Central()), None, 13, 13),
]


@pytest.mark.parametrize(
    ("method", "schedule", "evaluations", "backwards"),
    [FIRST_ORDER, *SECOND_ORDER],
    ids=["first_order", "exact", "one_sided", "central"],
)
def test_lfm_cw(
    method: Any,
    schedule: Any,
    evaluations: int,
    backwards: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = lfm_cw(device, method, sgd)
    engine = mlopt.Engine(case.nodes, schedule=schedule, device=device)
    plan = engine.plan()
    assert (plan.evaluations, plan.backwards) == (evaluations, backwards)
    (total,) = (line for line in str(plan).splitlines() if line.startswith("total"))
    assert total.split() == ["total", f"{evaluations}", f"{backwards}"]
    assert checked_steps(engine, monkeypatch, 2) == [evaluations] * 2
    # the perturbed evaluations of stage II never run the networks behind the signals again
    for signal in (case.class_losses, case.synthetic):
        assert plan.per_node[signal][0] == 1


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("product", "extra"), [(Exact(), 0), (OneSided(), 1), (Central(), 2)])
def test_cost_is_linear_in_the_nodes_of_a_ladder(
    product: Any, extra: int, depth: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^depth paths lead from the top to the architecture; each node is visited once."""
    case = ladder(device, lambda: OneStep(0.1, product), sgd, depth=depth)
    engine = mlopt.Engine(case.nodes, device=device)
    (evaluations,) = checked_steps(engine, monkeypatch, 1)
    assert evaluations == 2 * depth * (1 + extra) + 1
    assert engine.plan().backwards == 2 * depth * (2 + (extra == 2)) + 1
    for problem in case.lowers:
        assert engine.plan().per_node[problem][0] == 1 + extra


def test_a_hypergradient_alone_evaluates_what_it_needs(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of LFM-CW's seven nodes, the generator needs one, stage II five, stage III six."""
    case = lfm_cw(device, lambda: OneStep(product=Central()), sgd)
    engine = mlopt.Engine(case.nodes, device=device)
    engine.hypergradient(case.upper)
    counted = Counted(case.nodes, monkeypatch)
    # nobody's solution is pulled back but for stage III
    for problem, evaluations in ((case.generator, 1), (case.stage2, 5), (case.upper, 6 + 3 * 2)):
        counted.calls.clear()
        engine.hypergradient(problem)
        assert sum(counted.calls.values()) == evaluations
    assert counted.calls[case.discriminator] == 0


def test_the_user_sees_the_calls_of_each_network(device: torch.device) -> None:
    """Forward passes of the first step; the shared counting of `plan()` is in evaluations."""
    case = lfm_cw(device, lambda: OneStep(product=Central()), sgd)
    engine = mlopt.Engine(case.nodes, device=device)
    engine.step()
    assert engine.measurement is not None
    # W1: stage I, twice displaced, class losses; W2: two passes in each of three, and stage III;
    # G: discriminator, generator and twice displaced, synthetic; H: two passes, then as G's
    assert engine.measurement.calls == {"w1": 4, "w2": 7, "g": 5, "h": 5}


def test_signals_are_computed_once_for_all_readers(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = signals(device, lambda: OneStep(product=Central()), sgd)
    engine = mlopt.Engine(case.nodes, device=device)
    engine.hypergradient(case.upper)
    counted = Counted(case.nodes, monkeypatch)
    engine.step()
    for node in case.nodes:
        if isinstance(node, mlopt.Signal):
            assert counted.calls[node] == 1


def test_frozen_levels_cost_no_evaluation_of_their_own(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for the upper gradient alone, a frozen lower problem is not evaluated at all."""
    case = bilevel_module(device, Frozen, sgd)
    engine = mlopt.Engine(case.nodes, device=device)
    engine.hypergradient(case.upper)
    counted = Counted(case.nodes, monkeypatch)
    engine.hypergradient(case.upper)
    assert dict(counted.calls) == {case.upper: 1}
    assert counted.backwards == 1


# Nested levels and steps of several: counted in a trial.


def nested(method: Any, device: torch.device) -> list[Any]:
    """The top reads a middle that steers a bottom, and the bottom that follows it."""
    W, M, A = (mlopt.Variable(parameter(device, s, 2), n) for s, n in enumerate("wma"))

    @mlopt.problem(over=W, given=[M, A], optimizer=sgd(W.parameters()), hypergrad=method)
    def low(w, m, a):
        return (torch.cosh(w - m) + w**2 * torch.sin(a)).sum() + 5 * (w**2).sum()

    @mlopt.signal(given=[W])
    def passed(w):
        return torch.sin(w)

    @mlopt.problem(over=M, given=[passed, A], optimizer=sgd(M.parameters()), hypergrad=method)
    def middle(m, passed, a):
        return (torch.cosh(m) + m * passed * a).sum() + 5 * (m**2).sum()

    @mlopt.problem(over=A, given=[W, M], optimizer=sgd(A.parameters()))
    def top(a, w, m):
        return (a * w * m).sum() + (a**2).sum()

    return [low, passed, middle, top]


@pytest.mark.parametrize(
    "method",
    [
        OneStep(lr=0.1),
        OneStep(0.1, Central()),
        OneStep(0.1, OneSided()),
        mlopt.Unrolled(1),
        mlopt.Unrolled(3),
        mlopt.Unrolled(3, recompute=True),
        mlopt.Implicit(mlopt.Dense()),
        mlopt.Implicit(mlopt.Dense(), Central()),
    ],
    ids=str,
)
def test_nested_levels_cost_what_the_trial_counted(
    method: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = mlopt.Engine(nested(method, device))
    found = checked_steps(engine, monkeypatch, 3)
    assert found[0] == found[1] == found[2]
    assert found[0] > 4  # more than once each: the cost of nesting
    assert str(found[0]) in str(engine.plan())


def test_nested_differences_multiply(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact products re-use graphs; each difference repeats the sweep below it."""

    def evaluations(method: Any) -> int:
        return mlopt.Engine(nested(method, device)).plan().evaluations

    assert (
        evaluations(OneStep(lr=0.1))
        < evaluations(OneStep(0.1, OneSided()))
        < evaluations(OneStep(0.1, Central()))
    )

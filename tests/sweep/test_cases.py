"""The pullback law, and the sweep law, for every method on every graph of the table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from case_graphs import tensor
from cases import GRAPHS, METHODS, MethodRow, Recorder, warmed
from compare import agree, exact, rounding
from grids import thinned
from nested_oracle import Nested, Steps
from oracles import Composed, assert_same_gradients, sweep_rounding

import mlopt

#: One update: a gradient of 50 operations forth and back, whose terms are ten times their sum.
SOLUTION = rounding(2 * 50, condition=10)


# Nothing at all comes to the hyperparameters unless the lower problem responds: a test below.
def pairs(first: int) -> list[Any]:
    """A third of the table in every run, another one by each law; the rows of few graphs always."""
    return [
        pytest.param(graph, row, id=f"{graph}-{row.name}", marks=() if row.graphs else cell.marks)
        for cell in thinned(3, GRAPHS, METHODS, first=first)
        for graph, row in [cell.values]
        if (graph != "hyperparameter" or row.method().responds)
        and (not row.graphs or graph in row.graphs)
    ]


@pytest.mark.parametrize(("graph", "row"), pairs(first=0))
def test_pullback_law(graph: str, row: MethodRow, device: torch.device) -> None:
    recorders: list[Recorder] = []

    def method() -> Recorder:
        recorders.append(Recorder(row.method()))
        return recorders[-1]

    case = GRAPHS[graph](device, method, row.optimizer)
    engine = mlopt.Engine(case.nodes, device=device)
    engine.hypergradient(case.upper)
    if not (row.method().moves or row.method().responds):
        assert not any(r.responses or r.cotangents for r in recorders)
        return
    for problem, recorder in zip(case.lowers, recorders, strict=True):
        assert len(recorder.responses) == 1  # one base evaluation serves update and look-ahead
        assert len(recorder.cotangents) == row.method().responds  # visited once, with the sum
        response, inner = recorder.responses[0], recorder.method
        # the oracle runs on the same declarations, with the plain methods in the recorders' place
        oracle = Composed(case.nodes, batch=case.batch, seed=engine.seed_of)
        oracle.formulas = row.formulas
        oracle.method = lambda p: (
            p.hypergrad.method
            if isinstance(p.hypergrad, Recorder)
            else (p.hypergrad or mlopt.Frozen())
        )
        expected, leaves = oracle.solution(problem)
        found = inner.solution(response)
        cotangent = {k: tensor(device, 90 + i, *t.shape) for i, (k, t) in enumerate(found.items())}
        for key, solved in expected.items():
            exact(found[key], solved, SOLUTION, what=f"solution {key}")
        wanted = list(response.arguments)
        pulled = inner.pullback(response, cotangent, wanted)
        if not inner.responds:
            assert pulled == {}
            continue
        assert wanted
        grads = torch.autograd.grad(
            [expected[k] for k in cotangent if expected[k].requires_grad],
            [leaves[k] for k in wanted],
            [c for k, c in cotangent.items() if expected[k].requires_grad],
            allow_unused=True,
        )
        assert set(pulled) == {k for k, g in zip(wanted, grads, strict=True) if g is not None}
        for key, g in zip(wanted, grads, strict=True):
            if g is not None:
                agree(pulled[key], g, row.bound, row.why, what=f"{problem.name} {key}")
        zero = {k: torch.zeros_like(c) for k, c in cotangent.items()}
        for key, g in inner.pullback(response, zero, wanted).items():
            assert torch.equal(g, torch.zeros_like(g)), f"{problem.name} {key}: not exactly zero"


@pytest.mark.parametrize(("graph", "row"), pairs(first=1))
def test_sweep_law(graph: str, row: MethodRow, device: torch.device) -> None:
    case = GRAPHS[graph](device, row.method, row.optimizer)
    engine = mlopt.Engine(case.nodes, device=device)
    oracle = Composed(case.nodes, batch=case.batch, seed=engine.seed_of)
    oracle.formulas = row.formulas
    for problem in (p for p in case.nodes if isinstance(p, mlopt.Problem)):
        found = engine.hypergradient(problem)
        expected = oracle.hypergradient(problem)
        assert_same_gradients(found, expected, row.bound, problem.name, row.why)
        again = engine.hypergradient(problem)
        assert all(torch.equal(t, again[v][k]) for v in found for k, t in found[v].items())


UNROLLED = thinned(
    3,
    # the batches and noise of LFM-CW differ from step to step: a test below
    [graph for graph in GRAPHS if graph != "lfm_cw"],
    ["plain", "heavy", "nesterov"],
    [(1, False), (2, False), (3, False), (3, True)],
)


@pytest.mark.parametrize(("graph", "optimizer", "count"), UNROLLED)
def test_unrolled_sweep_law(
    graph: str, optimizer: str, count: tuple[int, bool], device: torch.device
) -> None:
    """K steps at every level, against plain autograd through the whole program."""
    k, again = count
    options = {
        "plain": {"lr": 0.1},
        "heavy": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
        "nesterov": {"lr": 0.05, "momentum": 0.8, "nesterov": True},
    }[optimizer]

    def sgd(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        return warmed(torch.optim.SGD(parameters, **options))

    case = GRAPHS[graph](device, lambda: mlopt.Unrolled(k, recompute=again), sgd)
    engine = mlopt.Engine(case.nodes, device=device)
    oracle = Nested(case.nodes, dict.fromkeys(case.lowers, Steps(k)), batch=case.batch)
    for problem in (p for p in case.nodes if isinstance(p, mlopt.Problem)):
        found = engine.hypergradient(problem)
        # K steps at each of at most six problems
        bound = sweep_rounding(6 * k)
        assert_same_gradients(found, oracle.hypergradient(problem), bound, problem.name)


def test_unrolled_lfm_cw_of_one_step(device: torch.device) -> None:
    """With streams, signals of them and noise: one step is the look-ahead."""

    def sgd(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        return warmed(torch.optim.SGD(parameters, lr=0.3, momentum=0.9))

    one = GRAPHS["lfm_cw"](device, lambda: mlopt.Unrolled(1), sgd)
    two = GRAPHS["lfm_cw"](device, mlopt.OneStep, sgd)
    found = mlopt.Engine(one.nodes, device=device).hypergradient(one.upper)
    expected = mlopt.Engine(two.nodes, device=device).hypergradient(two.upper)
    for a, b in zip(found.values(), expected.values(), strict=True):
        for name in b:
            exact(a[name], b[name], sweep_rounding(3), what=name)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_response_is_a_good_part_of_the_hypergradient(graph: str, device: torch.device) -> None:
    """Else the bounds above would test the direct term alone."""

    def total(method) -> torch.Tensor:
        case = GRAPHS[graph](device, method, lambda p: torch.optim.SGD(p, lr=0.1))
        engine = mlopt.Engine(case.nodes, device=device)
        tensors = engine.hypergradient(case.upper)
        return torch.cat(
            [t.flatten() for v in tensors.values() for t in v.values()]
            or [torch.zeros(4, device=device)]
        )

    full = total(lambda: mlopt.OneStep(lr=0.5))
    if graph == "hyperparameter":
        assert full.norm() > 0
        with pytest.raises(mlopt.GraphError, match="minimised over"):
            total(mlopt.Frozen)
        return
    direct = total(lambda: mlopt.StopGradient(mlopt.OneStep(lr=0.5)))
    assert (full - direct).norm() > 0.05 * full.norm()

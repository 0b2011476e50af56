"""`Engine(compile=...)`: the numbers of plain functions, and few variants."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import exact, kills, rounding
from evaluation.compiled import AOT, CENTRAL, METHODS, PLAIN, ROUNDING, Graph, run
from small import F64
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compiled_step  # noqa: E402

import mlopt  # noqa: E402
from mlopt import OneStep  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_compiler")


#: Central differences stand for all but the last, for which `exact` does.
SLOW = {
    "one_sided", "sama", "implicit_central", "gauss_newton", "zeroth_order", "implicit_exact",
}  # fmt: skip


# In some versions torch's compiler looks at it itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in METHODS]
)
def test_numbers_are_those_of_plain_functions(name: str) -> None:
    """Parameters, buffers and masks; no warning, so nothing was differentiated twice by mistake."""
    compiled, plain = Graph(METHODS[name], compile=AOT), Graph(METHODS[name])
    found, expected = run(compiled, 3), run(plain, 3)
    # of differences, rounding is divided by their radius
    bound = ROUNDING if name in {*PLAIN, "frozen"} else ROUNDING / 0.01
    kills(Graph().state(), expected, bound)  # they moved
    exact(found, expected, bound)
    one = compiled.engine.hypergradient(compiled.upper)[compiled.A][""]
    two = plain.engine.hypergradient(plain.upper)[plain.A][""]
    exact(one, two, bound)
    counts = compiled.engine.compiled.nodes
    assert (counts["train"].graphs > 0) == (name not in PLAIN)
    if name != "unrolled":
        assert counts["valid"].graphs > 0
        assert counts["errors"].graphs > 0


def test_nested_levels_run_plain_where_they_are_differentiated_twice() -> None:
    def graph(**options: Any) -> tuple[mlopt.Engine, list[nn.Parameter]]:
        x, y, z = (nn.Parameter(torch.full((2,), v, dtype=F64)) for v in (0.5, -1.0, 2.0))
        X, Y, Z = (mlopt.Variable(p, n) for p, n in ((x, "x"), (y, "y"), (z, "z")))

        @mlopt.problem(over=X, given=[Y], optimizer=torch.optim.SGD([x], 0.1))
        def low(x, y):
            return ((x - y.sin()) ** 2).sum() + x.cos().sum()

        @mlopt.problem(over=Y, given=[X, Z], optimizer=torch.optim.SGD([y], 0.1))
        def middle(y, x, z):
            return (x * y * z.exp()).sum() + (y**2).sum()

        @mlopt.problem(over=Z, given=[X, Y], optimizer=torch.optim.SGD([z], 0.1))
        def high(z, x, y):
            return ((x - y) ** 2).sum() + (z**2).sum()

        return mlopt.Engine([low, middle, high], hypergrad=OneStep(), **options), [x, y, z]

    (compiled, found), (plain, expected) = graph(compile=AOT), graph()
    for _ in range(3):
        compiled.step()
        plain.step()
    exact(found, expected, ROUNDING)


def test_variants_are_bounded() -> None:
    """Values are swapped in at every evaluation, and only their kinds are compiled for."""
    graph = Graph(compile={"backend": "eager"})
    run(graph, 2)
    counts = graph.engine.compiled
    assert counts is not None
    before = (counts.graphs, counts.recompilations)
    run(graph, 5)
    assert (counts.graphs, counts.recompilations) == before
    assert counts.breaks == 0
    assert counts.nodes["train"].recompilations == 1  # parameters; displaced, with a leaf above
    assert counts.nodes["errors"].recompilations == counts.nodes["valid"].recompilations == 0
    assert counts.graphs == 4
    assert "recompilations" in str(counts)
    assert str(counts).splitlines()[-1].split()[:4] == ["total", "4", "0", "1"]


# torch's own, where a function is resumed after a break
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_graph_break_is_counted_and_harmless() -> None:
    def steer() -> float:
        torch._dynamo.graph_break()
        return 1.0

    graph = Graph(CENTRAL, steer, compile={"backend": "eager"})
    exact(run(graph, 3), run(Graph(), 3), ROUNDING / 0.01)
    assert graph.engine.compiled.breaks > 0


def test_functions_made_in_a_loop_do_not_use_up_one_another_s_limit() -> None:
    for _ in range(5):  # of two variants, where torch's limit is eight
        x, y = (nn.Parameter(torch.full((2,), v, dtype=F64)) for v in (0.5, -1.0))
        X, Y = mlopt.Variable(x, "x"), mlopt.Variable(y, "y")

        @mlopt.problem(over=X, given=[Y], optimizer=torch.optim.SGD([x], 0.1), hypergrad=CENTRAL)
        def low(x, y):
            return (x - y).square().sum()

        @mlopt.problem(over=Y, given=[X], optimizer=torch.optim.SGD([y], 0.1))
        def high(y, x):
            return (x * y).sum()

        engine = mlopt.Engine([low, high], compile={"backend": "eager"})
        engine.step()
        engine.step()
        assert engine.compiled.nodes["low"].graphs == 2


def test_off() -> None:
    graph = Graph(compile=False)
    run(graph, 2)
    assert graph.engine.compiled is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("option", [True, {"mode": "max-autotune-no-cudagraphs"}])
def test_inductor(option: Any) -> None:
    """Generated code: masks and buffers are those of plain functions."""
    found = run(Graph(compile=option), 4)
    exact(found, run(Graph(), 4), ROUNDING / 0.01)


# The benchmark.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    ("problem", "recompilations"), [("darts", 1), ("lfm-cw", 3)], ids=["darts", "lfm-cw"]
)
def test_benchmark_compares_equal_steps(problem: str, recompilations: int) -> None:
    """A supernet, and for LFM-CW four networks and two signals."""
    row, engine = compiled_step.compare(problem, "central", "tiny", "cpu", "eager", 2)
    exact(float(str(row["difference"])), 0.0, rounding(2 * 4 * 300, condition=100), scale=1.0)
    counts = engine.compiled
    assert counts is not None
    assert all(c.graphs for c in counts.nodes.values())
    # stage1, stage2 and generator at displaced weights, beside their own
    assert row["recompilations"] == recompilations

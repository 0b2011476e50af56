"""The ladder: evaluations are linear in its depth, and the hypergradient is that of all paths."""

import functools
import inspect
import sys
from pathlib import Path

import pytest
import torch
from compare import agree, kills, rounding

import mlopt

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import depth_scaling  # noqa: E402
from depth_ladder import LR, RADIUS, Ladder, betty_ladder, ladder_engine  # noqa: E402


def truth(ladder):
    """The top's gradient through all look-aheads, by autograd alone."""
    t = ladder.modules["top"].value.detach().clone().requires_grad_()
    ahead = {"top": t}
    for name in ladder.names[:-1]:
        x = ladder.modules[name].value.detach().clone().requires_grad_()
        reads = [ahead[read] for read in ladder.reads[name]]
        (g,) = torch.autograd.grad(ladder.objective(name, x, reads), x, create_graph=True)
        ahead[name] = x.detach() - LR * g
    loss = ladder.objective("top", t, [ahead[read] for read in ladder.reads["top"]])
    return torch.autograd.grad(loss, t)[0]


def through_the_ladder(ladder, gradient):
    """A gradient without the top's own term, which would hide what comes through many layers."""
    return gradient - ladder.modules["top"].value.detach() / 10


@pytest.mark.parametrize("product", ["exact", "central"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_hypergradient_through_all_paths(depth, product):
    ladder = Ladder(depth, 6, dtype=torch.float64)
    engine, problems = ladder_engine(ladder, product)
    (found,) = next(iter(engine.hypergradient(problems["top"]).values())).values()
    found, wanted = (through_the_ladder(ladder, g) for g in (found, truth(ladder)))
    # an objective is 20 operations; the top's own term is taken from a gradient that it dominates
    own = ladder.modules["top"].value.norm().item() / 10
    bound, why = rounding(4 * 20 * (depth + 2), condition=1 + own / wanted.norm().item()), ""
    if product == "central":
        bound += (depth + 1) * RADIUS**2 / 6
        why = "at each level radius^2 / 6 of the third derivative"
    kills(2 * wanted, wanted, bound)
    agree(found, wanted, bound, why)


@pytest.mark.parametrize("depth", range(2, 9))
def test_evaluations_are_linear_in_depth(depth):
    ladder = Ladder(depth, 4)
    engine, _ = ladder_engine(ladder)
    problems = 2 * depth + 2
    assert len(ladder.names) == problems
    assert ladder.edges == 4 * depth + 1
    planned = engine.plan().evaluations
    engine.step()  # the first step is preceded by the reading check
    ladder.evaluations = 0
    engine.step()
    assert ladder.evaluations == planned == problems + 2 * (problems - 1)


#: In Betty they take seconds; six layers and fewer are in every run.
eight = functools.partial(pytest.param, 8, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("layers", "evaluations", "counts"), [(4, 28, (10, 17, 16)), eight(52, (18, 33, 256))]
)
def test_a_row_of_the_table(layers, evaluations, counts):
    row = depth_scaling.measure(layers, 4, 0, "cpu")
    assert row["plan, mlopt"] == row["evaluations, mlopt"] == evaluations
    assert (row["problems"], row["edges"], row["paths"]) == counts


@pytest.mark.parametrize(("depth", "wanted"), [(1, 12), (2, 30), (4, 170), (6, 910), eight(4626)])
def test_evaluations_in_betty_grow_with_the_paths(depth, wanted):
    pytest.importorskip("betty")
    ladder = Ladder(depth, 4)
    step, paths = betty_ladder(ladder)
    step()
    ladder.evaluations = 0
    step()
    assert paths == 2**depth
    assert ladder.evaluations == wanted


def test_benchmark_runs(tmp_path, monkeypatch):
    path = tmp_path / "x.md"
    arguments = ["--depths", "1", "2", "--size", "4", "--pairs", "2", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", [depth_scaling.__file__, *arguments])
    monkeypatch.setattr("logging.disable", lambda level: None)
    depth_scaling.main()
    assert "| layers" in path.read_text(encoding="utf-8")
    assert path.with_suffix(".svg").stat().st_size > 1000


def test_ladder_runs_on_the_device(device):
    ladder_engine(Ladder(2, 4, str(device)))[0].step()


def calls(make):
    """Calls of Python functions of mlopt that an engine, its plan and one hypergradient take.

    Args:
        make: () -> an engine, and the problem whose hypergradient is taken.
    """
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event == "call" and "mlopt" in frame.f_code.co_filename

    sys.setprofile(note)
    try:
        engine, top = make()
        engine.plan()
        engine.hypergradient(top)
    finally:
        sys.setprofile(None)
    return count


def problems_ladder(depth):
    engine, problems = ladder_engine(Ladder(depth, 2), "exact")
    return engine, problems["top"]


def signals_ladder(depth):
    """Two signals on each layer, beside a middle problem that steers a lower one."""
    W, M, A = (mlopt.Variable(torch.nn.Parameter(torch.ones(1)), n) for n in "wma")

    def problem(over, *given):
        optimizer = torch.optim.SGD(over.parameters(), 0.1)
        return mlopt.problem(
            over=over, given=given, optimizer=optimizer, hypergrad=mlopt.OneStep(), name=over.name
        )(lambda x, *others: sum(((x - y) ** 2).sum() for y in others))

    nodes, last = [problem(W, M, A), problem(M, W, A)], (W, A)
    for layer in range(depth):
        last = [
            mlopt.signal(given=last, name=f"s{layer}{k}")(lambda x, y: (x + y) / 2)
            for k in range(2)
        ]
        nodes += last
    top = problem(A, M, *last)
    return mlopt.Engine([*nodes, top]), top


@pytest.mark.parametrize("make", [problems_ladder, signals_ladder])
def test_the_work_on_the_graph_is_linear_in_its_edges(make):
    few, many = calls(lambda: make(20)), calls(lambda: make(80))
    assert many < 4.4 * few  # edges: four times as many; a quadratic part would show


def test_deep_ladders_need_no_recursion():
    """A frame for each layer would be more than Python has left."""
    ladder = Ladder(200, 2)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        engine, problems = ladder_engine(ladder)
        assert engine.plan().evaluations == 402 + 2 * 401
        assert engine.hypergradient(problems["top"])
    finally:
        sys.setrecursionlimit(before)
    assert len(str(engine.graph)) < 100 * len(ladder.names) + 60 * ladder.edges

"""SGL's benchmark and the engine's: like is compared with like, and each runs at its smallest."""

import argparse
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compare import exact, kills, rounding
from grids import thinned
from oracles import sweep_rounding

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import engine_overhead  # noqa: E402
import engine_overhead_steps  # noqa: E402
import sgl_graph  # noqa: E402
import sgl_scaling  # noqa: E402
from engine_overhead_steps import CONTESTANTS  # noqa: E402
from engine_overhead_steps import World as Small  # noqa: E402
from lfm_cw_step import Passes, count_passes  # noqa: E402
from scaling_chart import chart  # noqa: E402
from sgl_graph import PRODUCTS, World, sgl_engine  # noqa: E402

TINY = sgl_scaling.Size(channels=1, cells=3, nodes=1, image=8, batch=4)
# Network passes of a step, and evaluations, for each learner; a lone one has no teachers.
PASSES = {"first": 5, "one-sided": 8, "central": 11}
EVALUATIONS = {"first": 3, "one-sided": 5, "central": 7}
ALONE = {"first": 3, "one-sided": 4, "central": 5}


# SGL.


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(cell.values, marks=cell.marks, id="{}-{}".format(*cell.values))
        for cell in thinned(3, PRODUCTS, (1, 2, 3), first=1)
    ],
)
def steps(request):
    """Two steps of mlopt and two by hand from equal worlds in float64.

    The architectures' gradients after each, and the passes of the second: mlopt's reading check
    precedes the first.
    """
    product, learners = request.param
    ours, theirs = (World.make(learners, TINY, "cpu", torch.float64) for _ in range(2))
    engine, loop = sgl_engine(ours, product), sgl_scaling.HandLoop(theirs, product)
    gradients, passes = [], []
    for _ in range(2):
        for step, world in ((engine.step, ours), (loop.step, theirs)):
            with Passes() as counted:
                step()
            passes.append(counted.count)
            gradients.append(torch.cat([p.grad.flatten() for p in world.group.parameters()]))
    return SimpleNamespace(
        product=product, learners=learners, found=gradients[::2], expected=gradients[1::2],
        passes=passes[2:], planned=engine.plan().evaluations,
    )  # fmt: skip


def test_hand_written_sgl_has_the_same_gradients(steps):
    bound = 2 * sweep_rounding(2, condition=10)  # two steps of two levels of networks
    if steps.product != "first":
        bound /= sgl_graph.RADIUS  # of differences, rounding is divided by it
    kills([2 * g for g in steps.expected], steps.expected, bound)
    exact(steps.found, steps.expected, bound)


def test_the_check_before_timing():
    found = sgl_scaling.check(1, "first", TINY, steps=1)
    exact(found, 0.0, sweep_rounding(2, condition=10), scale=1.0)


def test_passes_of_an_sgl_step(steps):
    product, learners = steps.product, steps.learners
    wanted = PASSES[product] * learners if learners > 1 else ALONE[product]
    assert steps.passes == [wanted, wanted]


def test_planned_evaluations_of_an_sgl_step(steps):
    product, learners = steps.product, steps.learners
    wanted = EVALUATIONS[product] * learners + 1 if learners > 1 else ALONE[product]
    assert steps.planned == wanted


@pytest.mark.slow  # in every run those of one to three learners are planned
@pytest.mark.parametrize("learners", [2, 4])
@pytest.mark.parametrize("product", PRODUCTS)
def test_planned_evaluations_of_more_learners(product, learners):
    engine = sgl_engine(World.make(learners, TINY, "cpu"), product)
    assert engine.plan().evaluations == EVALUATIONS[product] * learners + 1


@pytest.mark.parametrize("learners", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_sgl_in_betty_takes_a_pass_for_every_path(learners):
    pytest.importorskip("betty")
    step = sgl_scaling.contestant("Betty", learners, "central", TINY, "cpu")
    # V once, W twice and once for each teacher, A once; two more of W for each path through it,
    # two of W and two of V for each path through both.
    teachers = learners - 1
    w = 2 + teachers
    base = learners * (1 + w) + learners
    one = 2 * w
    both = 2 * w + 2
    assert count_passes(step) == base + learners * one + learners * teachers * both


def test_sgl_benchmark_runs(tmp_path, monkeypatch, capsys):
    sizes = ["--channels", "1", "--cells", "3", "--nodes", "1", "--image", "8", "--batch", "4"]
    run(
        monkeypatch, sgl_scaling,
        "--learners", "1", "--methods", "mlopt", "hand", "--pairs", "2", "--no-memory",
        "--product", "first", "--output", str(tmp_path / "x.md"), *sizes,
    )  # fmt: skip
    table = (tmp_path / "x.md").read_text(encoding="utf-8")
    assert "| learners" in table
    assert "mlopt / hand" in table
    assert "x.svg" in table
    assert (tmp_path / "x.svg").stat().st_size > 1000
    assert "learners" in capsys.readouterr().out


def test_growth_is_the_time_of_more_learners_by_that_of_fewer(monkeypatch):
    times = {"1": [1.0, 2.0], "3": [3.0, 6.0]}
    monkeypatch.setattr(sgl_scaling, "rounds", lambda steps, *_: {k: times[k] for k in steps})
    options = argparse.Namespace(product="first", device="cpu", pairs=2)
    assert sgl_scaling.growth("mlopt", 1, 3, options, TINY).startswith("3.000 ")


def test_sgl_runs_on_the_device(device):
    sgl_scaling.contestant("mlopt", 1, "central", TINY, str(device))()


# The engine's overhead.


@pytest.mark.parametrize("product", engine_overhead_steps.PRODUCTS)
@pytest.mark.parametrize("name", ["hand", "TorchOpt", "higher"])
def test_contestants_take_the_same_steps(name, product):
    if name in ("TorchOpt", "higher"):
        pytest.importorskip(name.lower())
    ours, theirs = (Small(10, "cpu", torch.float64) for _ in range(2))
    mine, other = CONTESTANTS["mlopt"](ours, product), CONTESTANTS[name](theirs, product)
    if other is None:
        pytest.skip("it has no such product")
    for _ in range(3):
        mine()
        other()
    for variable in ("w", "a"):
        bound = rounding(3 * 4 * 30)  # three steps of losses of 30 operations
        if product != "exact":
            bound /= engine_overhead_steps.RADIUS  # of differences, rounding is divided by it
        exact(getattr(ours, variable).value, getattr(theirs, variable).value, bound)


def test_betty_steps_the_small_problem():
    pytest.importorskip("betty")
    world, still = Small(10, "cpu"), Small(10, "cpu")
    CONTESTANTS["Betty"](world, "central")()
    for variable in ("w", "a"):
        assert not torch.equal(getattr(world, variable).value, getattr(still, variable).value)


def test_loops_over_many_tensors_take_the_same_steps(monkeypatch):
    made = []

    class Recorded(engine_overhead.Many):
        def __init__(self, count):
            super().__init__(count)
            self.double()
            made.append(self)

    monkeypatch.setattr(engine_overhead, "Many", Recorded)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        ours = engine_overhead.tensors_step(5, "cpu")
        theirs = engine_overhead.tensors_hand(5, "cpu")
    finally:
        torch.set_default_dtype(previous)
    for _ in range(3):
        ours()
        theirs()
    mine, other = made[0](), made[1]()
    assert not torch.equal(mine, torch.full_like(mine, 0.5))
    exact(mine, other, rounding(3 * 4 * 30))  # three steps of losses of 30 operations


def test_overhead_benchmark_runs(tmp_path, monkeypatch):
    run(
        monkeypatch, engine_overhead,
        "--pairs", "2", "--block", "2", "--problems", "1", "2", "--tensors", "1", "3",
        "--output", str(tmp_path / "x.md"),
    )  # fmt: skip
    table = (tmp_path / "x.md").read_text(encoding="utf-8")
    for heading in ("| product", "| problems", "| tensors"):
        assert heading in table


def test_slope_is_that_of_the_ends():
    rows = [{"n": 10, "mlopt, us": 7.0}, {"n": 20, "mlopt, us": 9.0}, {"n": 30, "mlopt, us": 17.0}]
    assert engine_overhead.slope(rows, "n", "mlopt") == 0.5


def test_chart_leaves_out_lines_without_points(tmp_path):
    path = tmp_path / "x.svg"
    points = list(itertools.pairwise([1.0, 2.0, 3.0]))
    assert chart({"ms": {"mlopt": points, "Betty": []}}, "learners", path)
    assert path.stat().st_size > 1000


def run(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__file__, *arguments])
    monkeypatch.setattr("logging.disable", lambda level: None)
    module.main()

"""The benchmarks of hypergradients: mlopt's side of them, on problems of a few parameters."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from compare import agree, exact, near, rounding

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import error_vs_cost  # noqa: E402
import error_vs_cost_problems as problems  # noqa: E402
import memory  # noqa: E402
import unroll_memory  # noqa: E402
from peers import KINDS, Options  # noqa: E402
from peers.mlopt_peer import METHODS  # noqa: E402

# The solvers have few steps, so that what they leave is seen.
pytestmark = pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")

FEATURES, STEPS = 12, 7
NAMES = [method.name for method in METHODS]
RADIUS = 1e-5
# The two ends of the curvature are 51 apart. A loss is 60 operations; a method looks at it before
# and after each of its steps, twice differentiated. Differences divide its rounding by the radius.
CONDITION = 51
EXACT = rounding(4 * 60 * (STEPS + 1), CONDITION)
CENTRAL = 10 * RADIUS**2 / 6 + rounding(60, CONDITION) / RADIUS
DIFFERENCES = "radius^2 / 6 of the third derivative, and rounding by the radius"
# One-sided differences and samples are not exact.
INEXACT = {"OneStep(1), OneSided", "OneStep, OneSided", "OneStep (Adam)", "ZerothOrder"}
NO_FORMULA = {"Implicit, Nystrom"}
# Evaluations of the lower objective and backward passes for K steps. One backward pass is that of
# the upper objective; Implicit takes K products and the mixed one, on one base evaluation.
K = STEPS
COUNTS = {
    "Implicit, Dense": (1, FEATURES + 3),
    "Implicit, CG": (1, K + 3),
    "Implicit, CG, Central": (1 + 2 * (K + 1), 2 + 2 * (K + 1)),
    "Implicit, CG, damping": (1, K + 3),
    "Implicit, Neumann": (1, K + 3),
    "Implicit, Nystrom": (1, K + 4),  # one for the residual
    "OneStep": (1, 3),
    "OneStep, Central": (3, 4),
    "OneStep, OneSided": (2, 3),
    "Unrolled": (K, K + 1),
    "Unrolled (Adam)": (K, K + 1),
    "F2SA": (2, 1),
}


@pytest.fixture(scope="module")
def problem():
    return problems.smooth(0, features=FEATURES, samples=30)


@pytest.fixture(scope="module")
def options(problem):
    return Options(iterations=STEPS, step_size=1 / problem.curvature()[1], radius=RADIUS)


@pytest.fixture(autouse=True)
def no_memory(monkeypatch):
    """The profiler that counts bytes takes most of the time; it has tests of its own."""
    monkeypatch.setattr(error_vs_cost, "peak_kib", lambda call, device: 0.0)


def test_the_memory_of_a_call(monkeypatch, problem, options):
    monkeypatch.setattr(error_vs_cost, "peak_kib", memory.peak_kib)
    assert measured("OneStep", problem, options)["KiB"] > 0


def method_named(name):
    return METHODS[NAMES.index(name)]


def measured(name, problem, options, **changes):
    return error_vs_cost.measure(
        method_named(name), problem, dataclasses.replace(options, **changes)
    )[0]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in INEXACT | NO_FORMULA])
def test_gives_what_its_formula_gives(name, problem, options):
    row = measured(name, problem, options)
    differences = "Central" in name or name in ("Sama (SGD)", "Sama (Adam)")
    bound, why = (CENTRAL, DIFFERENCES) if differences else (EXACT, "")
    agree(row["own"], 0.0, bound, why, scale=1.0)
    if name not in ("Implicit, Dense", "Implicit, CG", "Implicit, CG, Central"):
        assert row["error"] > 1e-2  # so that the formula is told from the truth


@pytest.mark.parametrize("name", ["Implicit, Dense", "Implicit, CG", "Implicit, CG, Central"])
def test_is_the_dense_answer_with_enough_steps(name, problem, options):
    row = measured(name, problem, options, iterations=4 * FEATURES)
    bound = options.tolerance * CONDITION + (CENTRAL if "Central" in name else EXACT)
    near(row["error"], 0.0, bound, scale=1.0, why="the solver's tolerance, and " + DIFFERENCES)
    assert row["cosine"] > 1 - 1e-10


def test_cg_with_few_steps_is_not_the_dense_answer(problem, options):
    assert measured("Implicit, CG", problem, options, iterations=3)["error"] > 1e-3


def test_many_unrolled_steps_come_to_the_dense_answer(problem, options):
    """The warm start is forgotten: the unrolled gradient is that of the optimum."""
    low, high = problem.curvature()
    steps, step_size = round(8 * high / low), 1.8 / high
    row = measured("Unrolled", problem, options, iterations=steps, step_size=step_size)
    left = (1 - step_size * low) ** steps
    near(row["error"], 0.0, left, scale=1.0, why="what so many steps leave of the start")


def test_nystrom_of_full_rank_is_the_damped_answer(problem, options):
    options = dataclasses.replace(options, iterations=FEATURES)
    found = method_named("Implicit, Nystrom").prepare(problem, options)()
    solve = problems.damped(options.nystrom_damping, torch.linalg.solve)
    expected = problem.dense_hypergradient(solve)
    exact(found, expected, EXACT)
    assert error_vs_cost.distance(expected, problem.dense_hypergradient()) > 1e-2


@pytest.mark.parametrize("kind", ["OneStep(1)", "OneStep"])
def test_one_sided_differences_are_of_first_order(kind, problem, options):
    wide, narrow = (
        measured(f"{kind}, OneSided", problem, options, radius=radius)["own"]
        for radius in (1e-2, 1e-3)
    )
    assert 1e-6 < narrow < 1e-2
    assert 9 < wide / narrow < 11


def test_one_step_of_adam_holds_the_second_moment_constant(problem, options):
    """Near the derivative of the whole step, and not it."""
    assert 1e-4 < measured("OneStep (Adam)", problem, options)["own"] < 0.3


def test_samples_bring_zeroth_order_to_its_mean(problem, options):
    """The expected square of its relative error is about (parameters + 1) / samples."""
    own = measured("ZerothOrder", problem, options, samples=400)["own"]
    assert own < 2.5 * ((FEATURES + 1) / 400) ** 0.5


def test_bias_of_f2sa_falls_with_the_weight(problem, options):
    errors = [
        measured("F2SA", problem, options, weight=weight)["error"] for weight in (1e3, 1e4, 1e5)
    ]
    assert errors[0] < 0.1
    assert 9 < errors[0] / errors[1] < 11
    assert 9 < errors[1] / errors[2] < 11


@pytest.mark.parametrize("name", COUNTS)
def test_passes(name, problem, options):
    row = measured(name, problem, options)
    assert (row["forwards"], row["backwards"]) == COUNTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_asked_twice_gives_the_same_bits(name, problem, options):
    call = method_named(name).prepare(problem, options)
    assert torch.equal(call(), call())


@pytest.mark.slow  # test_gives_what_its_formula_gives holds the law on the smooth problem
def test_exact_on_the_network():
    problem = problems.network(0, samples=12)
    options = Options(iterations=6, step_size=1 / problem.curvature()[1])
    for name in ("Implicit, Dense", "Implicit, CG", "Unrolled", "Unrolled, recompute"):
        bound = rounding(4 * 60 * 7, condition=404)  # 6 steps; of the ends of the curvature
        exact(measured(name, problem, options)["own"], 0.0, bound, scale=1.0, what=name)


def test_every_kind_has_its_truth(problem, options):
    for kind in KINDS:
        truth = error_vs_cost.own_truth(problem, kind, options)
        assert (truth is None) == (kind == "nystrom")


def test_report_without_the_other_libraries(monkeypatch, tmp_path, capsys, problem):
    monkeypatch.setattr(error_vs_cost, "DISTRIBUTIONS", {"mlopt": None, "nowhere": "nowhere"})
    monkeypatch.setattr(error_vs_cost, "IMPLICIT_STEPS", (2, 3))
    monkeypatch.setattr(error_vs_cost, "UNROLLED_STEPS", (2, 3))
    monkeypatch.setattr(error_vs_cost, "VALUES", {"samples": (2,), "weight": (100.0,)})
    monkeypatch.setattr(problems, "smooth", lambda seed: problem)
    output = tmp_path / "x.md"
    arguments = ["--problem", "smooth", "--rounds", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [error_vs_cost.__file__, *arguments])
    error_vs_cost.main()
    text = output.read_text()
    assert "nowhere is left out" in capsys.readouterr().out
    assert "`python benchmarks/error_vs_cost.py --problem smooth" in text
    assert text.count("| mlopt ") == sum(
        2 if method.varies == "iterations" else 1 for method in METHODS
    )
    assert "Error:" not in text
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


def test_runs_on_the_device(device, problem, options):
    moved = problem.to(str(device))
    for name in ("Implicit, CG", "Unrolled", "OneStep, Central"):
        bound, why = (CENTRAL, DIFFERENCES) if "Central" in name else (EXACT, "")
        agree(measured(name, moved, options)["own"], 0.0, bound, why, scale=1.0, what=name)


def test_recomputed_steps_give_the_stored_gradient():
    stored, again = (unroll_memory.contestant(m, 5, "cpu")() for m in unroll_memory.METHODS[:2])
    assert stored.norm() > 1e-4
    # the same operations, of sums over 256 rows
    exact(again, stored, rounding(2 * 256, dtype=torch.float32))


@pytest.mark.slow  # tests/hypergrad/test_unrolled_cost.py holds it
def test_recomputing_needs_a_fraction_of_the_memory():
    """By the bytes that torch allocates, which are the same in every run."""
    calls = [unroll_memory.contestant(m, 36, "cpu") for m in unroll_memory.METHODS[:2]]
    for call in calls:
        call()
    stored, again = (memory.peak_kib(call, "cpu") for call in calls)
    assert again < stored / 3.5

"""The benchmark compares like with like: equal mathematics, equal passes."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compare import exact, kills
from oracles import sweep_rounding

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import lfm_cw_step  # noqa: E402

PASSES = {"first order": 8, "one-sided": 12, "central": 16, "exact": 8}
# One-sided differences are slow: central ones are two of them. Exact products make the same passes
# as the first order, and tests/sweep/test_lfm_cw_terms.py compares each of their terms.
VARIANTS = [
    pytest.param(v, marks=() if v in ("first order", "central") else pytest.mark.slow)
    for v in lfm_cw_step.VARIANTS
]
EVALUATIONS = {"first order": 8, "one-sided": 11, "central": 14, "exact": 8}


@pytest.fixture(scope="module", params=VARIANTS)
def steps(request):
    """Of mlopt and by hand, from equal worlds in float64: gradients, passes and evaluations.

    mlopt is counted at its second step: the reading check precedes the first.
    """
    variant, calls = request.param, []
    ours, theirs = (lfm_cw_step.World.make("tiny", "cpu", torch.float64) for _ in range(2))
    engine, nodes = lfm_cw_step.engine(ours, variant)
    for node in nodes.values():
        node.fn = counted(node.fn, calls)
    seeds = {name: engine.seed_of(node) for name, node in nodes.items()}
    planned = engine.plan().evaluations
    engine.step()
    with lfm_cw_step.Passes() as by_hand:
        lfm_cw_step.HandLoop(theirs, variant).step(seeds)
    found, expected = (
        torch.cat([p.grad.flatten() for p in world.a.parameters()]) for world in (ours, theirs)
    )
    calls.clear()
    with lfm_cw_step.Passes() as passes:
        engine.step()
    return SimpleNamespace(
        variant=variant, found=found, expected=expected, passes=(passes.count, by_hand.count),
        planned=planned, evaluations=len(calls),
    )  # fmt: skip


def test_hand_written_loop_has_the_same_gradient(steps):
    bound = sweep_rounding(3, condition=10)  # three networks above one another
    if steps.variant in ("one-sided", "central"):
        bound /= lfm_cw_step.RADIUS  # of differences, rounding is divided by it
    kills(2 * steps.expected, steps.expected, bound)
    exact(steps.found, steps.expected, bound)


def test_network_passes_of_a_step(steps):
    assert steps.passes == (PASSES[steps.variant], PASSES[steps.variant])


def test_evaluations_are_those_of_the_plan(steps):
    assert steps.planned == steps.evaluations == EVALUATIONS[steps.variant]


def test_the_check_before_timing():
    exact(lfm_cw_step.check("tiny", "first order"), 0.0, sweep_rounding(3), scale=1.0)


def counted(fn, calls):
    def call(*args):
        calls.append(fn)
        return fn(*args)

    return call


def test_lfm_cw_step_runs_on_the_device(device):
    lfm_cw_step.contestant("mlopt", "first order", "tiny", str(device))()

"""The benchmark compares like with like: equal mathematics, equal passes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import lfm_cw_step  # noqa: E402

PASSES = {"first order": 8, "one-sided": 12, "central": 16, "exact": 8}
EVALUATIONS = {"first order": 7, "one-sided": 10, "central": 13, "exact": 7}


@pytest.mark.parametrize("variant", lfm_cw_step.VARIANTS)
def test_hand_written_loop_has_the_same_gradient(variant):
    assert lfm_cw_step.check("tiny", variant) < 1e-12


@pytest.mark.parametrize("variant", lfm_cw_step.VARIANTS)
@pytest.mark.parametrize("name", ["mlopt", "hand"])
def test_network_passes_of_a_step(name, variant):
    step = lfm_cw_step.contestant(name, variant, "tiny", "cpu")
    for _ in range(2):
        with lfm_cw_step.Passes() as passes:
            step()
    assert passes.count == PASSES[variant]


@pytest.mark.parametrize("variant", lfm_cw_step.VARIANTS)
def test_evaluations_are_those_of_the_plan(variant):
    engine, nodes = lfm_cw_step.engine(lfm_cw_step.World.make("tiny", "cpu"), variant)
    calls = []
    for node in nodes.values():
        node.fn = counted(node.fn, calls)
    planned = engine.plan().evaluations
    engine.step()  # the first step is preceded by the reading check, one call of each function
    calls.clear()
    engine.step()
    assert planned == len(calls) == EVALUATIONS[variant]


def counted(fn, calls):
    def call(*args):
        calls.append(fn)
        return fn(*args)

    return call


def test_lfm_cw_step_runs_on_the_device(device):
    lfm_cw_step.contestant("mlopt", "central", "tiny", str(device))()

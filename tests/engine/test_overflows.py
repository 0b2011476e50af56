"""What overflows in fp16 leaves no trace on any level, and the run goes on."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from compare import near
from engine.bursts import LEVELS, Bursts, bursting, same, state, tensors
from evaluation.low_precision import World
from small import F64
from torch import Tensor

import mlopt
from mlopt import CG, Central, Exact, Implicit, OneStep, Unrolled
from mlopt._engine import failures
from mlopt._engine.fingerprint import check_fingerprint, fingerprint


@pytest.mark.parametrize(
    ("product", "schedule"),
    [(p, s) for p in (Exact(), Central()) for s in (mlopt.Simultaneous(), mlopt.UpperFirst())],
    ids=str,
)
def test_overflows_of_any_level_leave_no_trace(
    product: Any, schedule: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 of 250 steps overflow in one of three levels; nothing ever is not finite."""
    monkeypatch.setattr(failures, "_GROWTH", 1)
    g = torch.Generator().manual_seed(11)
    order = torch.randperm(250, generator=g)[:100].tolist()
    levels = torch.randint(0, 3, (250,), generator=g).tolist()
    plan = [LEVELS[levels[i]] if i in order else None for i in range(250)]
    engine = bursting(plan, product, schedule=schedule)
    calm = bursting([None] * 250, product, schedule=schedule)
    told: list[mlopt.NonFiniteError] = []
    seen = set()
    scale = engine.loss_scale
    for at in plan:
        before = [t.clone() for t in tensors(state(engine)["variables"])]
        scale = engine.loss_scale
        if at is None:
            calm._failures.size = scale
            calm.step()
        engine.step()
        if at is None and engine.skipped is None:
            assert same(state(engine)["variables"], state(calm)["variables"])
            assert same(state(engine)["optimizers"], state(calm)["optimizers"])
            continue
        assert engine.skipped is not None
        told.append(engine.skipped)
        seen.add(at)
        assert engine.loss_scale == scale / 2
        assert same(before, tensors(state(engine)["variables"]))
        assert all(t.isfinite().all() for t in tensors(state(engine)["optimizers"]))
    assert len(told) >= 100
    assert seen >= set(LEVELS)
    assert all(t.isfinite().all() for t in tensors(state(engine)["variables"]))
    assert engine.skip_nonfinite == 0  # none of them has counted


@pytest.mark.parametrize("undo", [True, False], ids=["undone", "not undone"])
@pytest.mark.parametrize(
    ("lower", "middle"),
    [
        (Implicit(CG(5), damping=1.0), OneStep(product=Central())),
        (Unrolled(2), OneStep()),
        (OneStep(), Implicit(CG(5), damping=1.0)),
    ],
    ids=["implicit in central", "unrolled in exact", "exact in implicit"],
)
def test_overflows_in_nested_levels(lower: Any, middle: Any, undo: bool) -> None:
    """Whatever is solved, traced or followed when it happens: all is finite, and goes on."""
    world = World(lower, middle=middle)
    factors = {p: torch.ones(()) for p in (world.train, world.learn, world.judge)}
    for problem, factor in factors.items():
        problem.fn = bursty(problem.fn, factor)
    engine = world.engine("fp16", undo=undo)
    engine._failures.size = 2.0**12
    g = torch.Generator().manual_seed(4)
    skipped = 0
    for step in range(20):
        at = list(factors)[int(torch.randint(0, 3, (), generator=g))]
        bad = step % 2 == 1 and skipped < 8
        factors[at].fill_(1e30 if bad else 1.0)
        before = tensors(state(engine)["variables"])
        engine.step()
        after = tensors(state(engine)["variables"])
        assert all(t.isfinite().all() for t in after)
        assert (engine.skipped is not None) is bad
        assert same(before, after) is bad
        skipped += bad
        factors[at].fill_(1.0)
    assert skipped == 8
    assert engine.loss_scale == 2.0**4


def bursty(fn: Any, factor: Tensor) -> Any:
    def bursting(first: Any, *others: Any) -> Any:
        return Bursts.apply(fn(first, *others), factor)

    return bursting


def test_a_run_of_another_precision_is_another_run() -> None:
    there, here = fingerprint(World().engine("bf16")), fingerprint(World().engine("fp16"))
    assert there["graph"]["train"].endswith("in bfloat16")
    with pytest.raises(mlopt.SettingsError, match="train is .*in bfloat16 in it, not .*in float16"):
        check_fingerprint("a file", there, here, ())


def test_a_run_tells_of_it_and_goes_on() -> None:
    engine = bursting([None, "judge", None], Exact())
    heard: list[str] = []

    class Hear(mlopt.Callback):
        def on_skip(self, engine: mlopt.Engine, error: mlopt.NonFiniteError) -> None:
            heard.append(str(error))

    engine.run(steps=3, callbacks=[Hear()], progress=False)
    assert engine.loss_scale == 2.0**9
    (said,) = heard
    assert said == (
        "step 1: the gradient of judge is not finite at a loss scale of 1024; nothing was "
        "committed, and the scale is 512 from here on."
    )


def test_at_the_least_scale_a_step_counts_as_ever() -> None:
    engine = bursting(["learn"] * 30, OneStep().product, skip_nonfinite=1)
    for _ in range(10):
        engine.step()
    assert engine.loss_scale == 1.0
    engine.step()
    assert engine.skipped is not None
    with pytest.raises(mlopt.NonFiniteError, match=r"of learn is not finite.* its least.*bf16"):
        engine.step()
    assert engine.loss_scale == 1.0


def test_it_is_doubled_after_many_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_GROWTH", 3)
    engine = bursting([None, None, "train", None, None, None, None], Exact())
    sizes = []
    for _ in range(7):
        engine.step()
        sizes.append(math.log2(engine.loss_scale or 0))
    assert sizes == [10, 10, 9, 9, 9, 10, 10]


def test_it_is_resumed_to_the_bit() -> None:
    plan = [None, "train", None, "judge", None, None]
    whole, begun, resumed = (bursting(plan, Exact()) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(4):
        begun.step()
    saved = copy.deepcopy(begun.state_dict())
    resumed.load_state_dict(saved)
    assert resumed.loss_scale == begun.loss_scale == 2.0**8
    assert resumed._failures.good == begun._failures.good
    for _ in range(2):
        resumed.step()
    assert same(state(resumed), state(whole))
    assert resumed._failures == whole._failures


def test_a_step_that_raises_leaves_it() -> None:
    engine = bursting([None, "train", None], Exact())
    engine.step()
    engine.clock.after_step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="afterwards"):
        engine.step()
    assert (engine.loss_scale, engine._failures.good) == (2.0**10, 1)


def fail(*arguments: Any) -> None:
    raise RuntimeError("afterwards")


def test_a_hypergradient_takes_the_scale_that_it_needs_and_keeps_none() -> None:
    """An overflow of the start scale, and none of smaller ones."""
    world, other = World(), World(dtype=F64)
    for each in (world, other):
        each.judge.fn = grown(each.judge.fn)
    engine = world.engine("fp16")
    found = engine.hypergradient(world.judge)[world.R][""]
    assert engine.loss_scale == 2.0**16
    why = "roundings of fp16, some dozen of 2^-11 each"
    near(found.double(), other.hypergradient(), 0.03, why=why)


def grown(fn: Any) -> Any:
    def large(first: Any, *others: Any) -> Tensor:
        return fn(first, *others) * 1e4

    return large

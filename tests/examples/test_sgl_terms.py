"""SGL on smooth networks: each term of each A_k's hypergradient, and what a step changes."""

from __future__ import annotations

import pytest
import torch
from examples.sgl_oracle import PLACES, World, program, terms, values
from oracles import assert_close
from torch import Tensor, nn

GROUPS = (2, 3, 5)
RATES = (0.1, 1.0)


def assert_terms(world: World, tolerance: float) -> None:
    """Every term of the engine, each relative to its own size, and their sum."""
    expected = terms(world)
    constant = world.hypergradient(live=())
    for k in world.group:
        assert_close(constant[k], expected["direct", k, k], tolerance, f"direct, {k}")
    for j in world.group:
        full = world.hypergradient(live=(j,))
        untaught = world.hypergradient(live=(j,), taught=False)
        for k in world.group:
            if k == j:
                found = full[k] - constant[k]
                assert_close(found, expected["own", k, k], tolerance, f"own, {k}")
                continue
            found = untaught[k] - constant[k]
            assert_close(found, expected["labels", k, j], tolerance, f"labels, {k} to {j}")
            found = full[k] - untaught[k]
            assert_close(found, expected["teacher", k, j], tolerance, f"teacher, {k} to {j}")
    total = world.hypergradient()
    for k in world.group:
        summed = sum(t for (_, learner, _), t in expected.items() if learner == k)
        assert isinstance(summed, Tensor)
        assert_close(total[k], summed, tolerance, f"total, {k}")


@pytest.mark.parametrize("lr", RATES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("after", [0, 2])
def test_exact_terms(group: int, lr: float, after: int) -> None:
    """At the start, and after steps that have left momentum behind."""
    world = World(group, lr)
    for _ in range(after):
        world.engine.step()
    assert_terms(world, 1e-9)


@pytest.mark.parametrize("lr", RATES)
@pytest.mark.parametrize("group", GROUPS)
def test_central_terms(group: int, lr: float) -> None:
    assert_terms(World(group, lr, product="central", radius=1e-3), 1e-4)


@pytest.mark.parametrize("group", GROUPS)
def test_no_term_is_negligible_and_none_is_missing(group: int) -> None:
    """K direct terms, K own ones, and two for each pair of a teacher and a pupil."""
    found = terms(World(group, 1.0))
    kinds = [place for place, _, _ in found]
    assert [kinds.count(place) for place in PLACES] == [group, group, *[group * (group - 1)] * 2]
    sizes = [t.norm().item() for t in found.values()]
    assert min(sizes) > 1e-5 * max(sizes), sizes


def test_a_teacher_counts_only_for_the_others() -> None:
    """Learner 2's pseudo-labels reach W_1 and W_3; its own W_2 reads the other two."""
    world = World(3)
    reads = {
        k: {r.source.name for r in world.problem("stage2", k).reads} - {f"w{k + 1}", f"a{k + 1}"}
        for k in world.group
    }
    assert reads[1] == {"learner_1/pseudo_labels", "learner_3/pseudo_labels"}
    assert all(f"learner_{k + 1}/pseudo_labels" not in reads[k] for k in world.group)


@pytest.mark.parametrize("group", GROUPS)
def test_a_second_order_step(group: int) -> None:
    """W_k and V_k take the step that was looked ahead to, A_k's Adam sees the hypergradient."""
    world = World(group)
    expected, alphas = terms(world), [nets.a.alpha.detach().clone() for nets in world.nets]
    aheads = program(world)[2]
    world.engine.step()
    for k, nets in enumerate(world.nets):
        for name, p in nets.w.named_parameters():
            assert_close(p.detach(), aheads[k][name].detach(), 1e-12, name)
        total = sum(t for (_, learner, _), t in expected.items() if learner == k)
        assert_close(seen_by_adam(world, k, alphas[k]), total, 1e-9, f"A_{k}")


@pytest.mark.parametrize("group", GROUPS)
def test_a_first_order_step(group: int) -> None:
    """Pseudo-labels come from the new V_k; A_k sees the validation loss at the new W_k alone."""
    world = World(group, order="first")
    expected, alphas = terms(world), [nets.a.alpha.detach().clone() for nets in world.nets]
    aheads = program(world)[2]
    world.engine.step()
    for k, nets in enumerate(world.nets):
        for name, p in nets.w.named_parameters():
            assert_close(p.detach(), aheads[k][name].detach(), 1e-12, name)
        assert_close(seen_by_adam(world, k, alphas[k]), expected["direct", k, k], 1e-9, f"A_{k}")


def seen_by_adam(world: World, k: int, alpha: Tensor) -> Tensor:
    """The gradient of A_k's first update, out of Adam's first moment."""
    optimizer = world.nodes[-1].optimizer
    moment = optimizer.state[world.nets[k].a.alpha]["exp_avg"]
    return moment / (1 - 0.5) - world.s.arch_weight_decay * alpha


def test_pretraining_and_warm_up() -> None:
    """One epoch of stage I alone, one without A; a first step that each stage does not take."""
    world = World(2, pretrain=1, warmup=1)
    stages = "vwa"
    moved = []
    for _ in range(3):
        before = [{n: values(getattr(nets, n)) for n in stages} for nets in world.nets]
        world.engine.step()
        moved.append(
            [
                "".join(n for n in stages if differs(old[n], getattr(nets, n)))
                for nets, old in zip(world.nets, before, strict=True)
            ]
        )
    assert moved == [["v"] * 2, ["vw"] * 2, ["vwa"] * 2]


def differs(before: dict[str, Tensor], module: nn.Module) -> bool:
    return any(not torch.equal(p, before[k]) for k, p in module.named_parameters())

"""SGL on smooth networks: each term of each A_k's hypergradient, by itself."""

from __future__ import annotations

import pytest
from oracles import assert_close
from sweep.sgl_program import GROUPS, PLACES, RATES, World, terms
from torch import Tensor


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

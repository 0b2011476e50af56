"""SGL on smooth networks: each term of each A_k's hypergradient, by itself."""

from __future__ import annotations

import pytest
from compare import agree, kills
from grids import thinned
from oracles import sweep_rounding
from sweep.sgl_program import GROUPS, PLACES, RATES, World, sum_of, terms
from torch import Tensor

#: With each order the derivatives along a direction of length 1 grow at most tenfold.
BIAS = 2 * 10**2 * 1e-3**2 / 6
WHY = "central differences in two problems: radius^2 / 6 of the third derivative"


def assert_terms(world: World, bias: float = 0.0, why: str = "") -> None:
    """Every term of the engine, each relative to its own size, and their sum."""
    expected = terms(world)
    totals = {k: sum_of(expected, k) for k in world.group}

    def check(found: Tensor, place: str, k: int, j: int) -> None:
        term = expected[place, k, j]
        # a small difference of two totals, and of what these are summed of
        condition = 100 + 10 * (totals[k].norm() / term.norm()).item()
        bound = sweep_rounding(2, condition=condition)
        kills(2 * term, term, bound + bias)
        agree(found, term, bias or bound, why, what=f"{place}, {k} to {j}")

    constant = world.hypergradient(live=())
    for k in world.group:
        check(constant[k], "direct", k, k)
    for j in world.group:
        full = world.hypergradient(live=(j,))
        untaught = world.hypergradient(live=(j,), taught=False)
        for k in world.group:
            if k == j:
                check(full[k] - constant[k], "own", k, k)
                continue
            check(untaught[k] - constant[k], "labels", k, j)
            check(full[k] - untaught[k], "teacher", k, j)
    for k, found in enumerate(world.hypergradient()):
        agree(found, totals[k], bias or sweep_rounding(2), why, what=f"total, {k}")


#: The terms of five are those of three, in larger numbers: one such group is in every run.
LARGE = [pytest.param(GROUPS[-1], *more, marks=pytest.mark.slow) for more in ((0.1, 0), (1.0, 2))]


@pytest.mark.parametrize(
    ("group", "lr", "after"), [*thinned(2, GROUPS[:-1], RATES, [0, 2]), *LARGE]
)
def test_exact_terms(group: int, lr: float, after: int) -> None:
    """At the start, and after steps that have left momentum behind."""
    world = World(group, lr)
    for _ in range(after):
        world.engine.step()
    assert_terms(world)


@pytest.mark.parametrize(
    ("group", "lr"),
    [*thinned(2, GROUPS[:-1], RATES), pytest.param(GROUPS[-1], RATES[0], marks=pytest.mark.slow)],
)
def test_central_terms(group: int, lr: float) -> None:
    assert_terms(World(group, lr, product="central", radius=1e-3), BIAS, WHY)


@pytest.mark.parametrize("group", GROUPS)
def test_no_term_is_negligible_and_none_is_missing(group: int) -> None:
    """K direct terms, K own ones, and two for each pair of a teacher and a pupil."""
    found = terms(World(group, 1.0))
    kinds = [place for place, _, _ in found]
    assert [kinds.count(place) for place in PLACES] == [group, group, *[group * (group - 1)] * 2]
    sizes = [t.norm().item() for t in found.values()]
    assert min(sizes) > 1e-5 * max(sizes), sizes

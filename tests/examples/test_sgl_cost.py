"""What a step of SGL costs: linear in the number of learners."""

from __future__ import annotations

from typing import Any

import pytest
from examples.sgl_oracle import World

VARIANTS = {
    "first": ({"order": "first"}, 5, 3),
    "exact": ({"product": "exact"}, 5, 3),
    "one-sided": ({"product": "one-sided"}, 8, 5),
    "central": ({"product": "central"}, 11, 7),
}


@pytest.mark.parametrize("group", [2, 4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cost_of_a_step_is_linear_in_the_learners(
    variant: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network passes by forward hooks; evaluations as the plan states them: 3 K + 1 and so on."""
    settings, passes, evaluations = VARIANTS[variant]
    world = World(group, **settings)
    counted = {"passes": 0, "evaluations": 0}

    def count(*_: Any) -> None:
        counted["passes"] += 1

    def called(fn: Any) -> Any:
        def call(*args: Any) -> Any:
            counted["evaluations"] += 1
            return fn(*args)

        return call

    for nets in world.nets:
        for network in (nets.v, nets.w):
            network.register_forward_hook(count)
    for node in world.nodes:
        monkeypatch.setattr(node, "fn", called(node.fn))
    planned = world.engine.plan().evaluations
    world.engine.step()  # preceded by the reading check, one call of each function
    for _ in range(2):
        counted.update(passes=0, evaluations=0)
        world.engine.step()
        assert counted == {"passes": passes * group, "evaluations": planned}
    assert planned == evaluations * group + 1

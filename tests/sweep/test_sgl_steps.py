"""SGL on smooth networks: what a step commits, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from oracles import relative_error, sweep_rounding
from sweep.sgl_program import GROUPS, World, program, sum_of, terms, values
from torch import Tensor, nn

import sgl_darts
from support.settings import Settings

#: One update: a gradient of 50 operations forth and back, whose terms are ten times their sum.
UPDATE = rounding(2 * 50, condition=10)


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
            exact(p, aheads[k][name], UPDATE, what=name)
        total = sum_of(expected, k)
        bound = sweep_rounding(2) + recovered(world, alphas[k], total)
        exact(seen_by_adam(world, k, alphas[k]), total, bound, what=f"A_{k}")


@pytest.mark.parametrize("group", GROUPS)
def test_a_first_order_step(group: int) -> None:
    """Pseudo-labels come from the new V_k; A_k sees the validation loss at the new W_k alone."""
    world = World(group, order="first")
    expected, alphas = terms(world), [nets.a.alpha.detach().clone() for nets in world.nets]
    aheads = program(world)[2]
    world.engine.step()
    for k, nets in enumerate(world.nets):
        for name, p in nets.w.named_parameters():
            exact(p, aheads[k][name], UPDATE, what=name)
        direct = expected["direct", k, k]
        bound = sweep_rounding(0) + recovered(world, alphas[k], direct)
        exact(seen_by_adam(world, k, alphas[k]), direct, bound, what=f"A_{k}")


def recovered(world: World, alpha: Tensor, gradient: Tensor) -> float:
    """What rounding leaves of the gradient when the weight decay is taken off again."""
    decay = world.s.arch_weight_decay * alpha
    return rounding(5, condition=1 + (decay.norm() / gradient.norm()).item())


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


# What a step costs.

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


def test_learners_begin_with_weights_of_their_own() -> None:
    """No two of the networks of a group are equal, and a larger group begins as a smaller one."""
    from mlopt.data import load

    s = Settings(channels=2, cells=3, nodes=1, learners=3)
    data = load("digits")
    batch = (torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
    loaders = ([batch], [batch], [batch[0]])

    def networks(learners: int) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = Settings(channels=2, cells=3, nodes=1, learners=learners)
            search = sgl_darts.scheme(data, *loaders, made)
        return [nn.utils.parameters_to_vector(n.parameters()).detach() for n in search.networks]

    three, two = networks(s.learners), networks(2)
    assert len(three) == 6
    for i, first in enumerate(three):
        assert all(relative_error(first, other) > 0.1 for other in three[:i])
    assert all(torch.equal(a, b) for a, b in zip(two, three, strict=False))

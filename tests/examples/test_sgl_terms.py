"""SGL on smooth networks: each term of each A_k's hypergradient, and what a step costs.

The graph is the one that `examples/sgl_darts.py` builds. The oracle is the equations of the paper
as one differentiable program of plain tensors, with a copy of A_k for every place where it stands:
the derivative by one copy is one term.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import assert_close, relative_error
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
import sgl_darts
from mlopt import OneStep, StopGradient
from support.settings import Settings

F64 = torch.float64
#: Where A_k stands: in stage III, in its own stage II, in its pseudo-labels, in its stage I.
PLACES = ("direct", "own", "labels", "teacher")
GROUPS = (2, 3, 5)
RATES = (0.1, 1.0)


class Mixture(nn.Module):
    """An architecture with smooth weights, all of them different."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(4))

    def forward(self) -> Tensor:
        return torch.tanh(self.alpha)


class Net(nn.Module):
    """A hidden layer whose units the architecture scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * weights)


class World:
    """K learners with the example's graph over one batch of each kind."""

    def __init__(self, group: int, lr: float = 0.1, **settings: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(group)
            self.nets: list[Any] = [
                sgl_darts.Networks(Mixture().double(), Net().double(), Net().double())  # type: ignore[arg-type]
                for _ in range(group)
            ]
            labels = torch.tensor([0, 1, 2, 2, 1, 0, 1])
            self.train = (torch.randn(7, 3, dtype=F64), labels)
            self.valid = (torch.randn(7, 3, dtype=F64), labels.flip(0))
            self.images = torch.randn(5, 3, dtype=F64)
        # a weight of the pseudo-labels at which no term is hidden by another one
        self.s = Settings(**{"lr": lr, "lambda_": 0.7, "product": "exact", **settings})
        self.engine = sgl_darts.sgl(self.nets, [self.train], [self.valid], [self.images], self.s)
        self.group = range(group)

    @property
    def nodes(self) -> list[Any]:
        return list(self.engine.graph.nodes)

    def problem(self, name: str, k: int) -> Any:
        (found,) = (n for n in self.nodes if n.name == f"learner_{k + 1}/{name}")
        return found

    def hypergradient(self, live: tuple[int, ...] | None = None, taught: bool = True) -> list[Any]:
        """Of every A_k. Only the W_j of `live` carry gradient, and the V_j only if `taught`."""
        for k in self.group:
            method = self.method()
            moves = live is None or k in live
            self.problem("stage2", k).hypergrad = method if moves else StopGradient(method)
            self.problem("stage1", k).hypergrad = method if taught else StopGradient(method)
        engine = mlopt.Engine(self.nodes)
        (last,) = (n for n in engine.graph.nodes if n.name == "stage3")
        found = engine.hypergradient(last)
        return [found[a]["alpha"] for a in last.over]

    def method(self) -> mlopt.AbstractHypergradient:
        exact = self.s.product == "exact"
        return OneStep(product=mlopt.Exact() if exact else mlopt.Central(self.s.radius))


# The oracle: no module, no optimizer and nothing of the engine.


def net(w: dict[str, Tensor], x: Tensor, alpha: Tensor) -> Tensor:
    hidden = torch.tanh(x @ w["first.weight"].T + w["first.bias"]) * torch.tanh(alpha)
    return hidden @ w["last.weight"].T + w["last.bias"]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * (logits - logits.logsumexp(-1, keepdim=True))).sum(-1).mean()


def values(module: nn.Module) -> dict[str, Tensor]:
    return {k: p.detach().clone().requires_grad_() for k, p in module.named_parameters()}


def descend(
    world: World, module: nn.Module, problem: Any, w: dict[str, Tensor], loss: Tensor
) -> Any:
    """SGD with momentum and weight decay, one step, at the rate where the schedule stands."""
    s, out = world.s, {}
    lr = problem.optimizer.param_groups[0]["lr"]
    grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
    for (name, p), g in zip(module.named_parameters(), grads, strict=True):
        buffer = problem.optimizer.state.get(p, {}).get("momentum_buffer", torch.zeros_like(p))
        out[name] = p.detach() - lr * (s.momentum * buffer + g + s.weight_decay * p.detach())
    return out


def program(world: World) -> tuple[list[Tensor], list[dict[str, Tensor]], list[Any]]:
    """Look-aheads W', the places of each A_k, and each learner's validation loss (Eq. 3)."""
    a = [
        {place: nets.a.alpha.detach().clone().requires_grad_() for place in PLACES}
        for nets in world.nets
    ]
    (x, y), (x_valid, y_valid), u = world.train, world.valid, world.images
    labels = []
    for k, nets in enumerate(world.nets):
        v = values(nets.v)
        loss = cross_entropy(net(v, x, a[k]["teacher"]), y)  # Eq. 1
        ahead = descend(world, nets.v, world.problem("stage1", k), v, loss)
        labels.append(torch.softmax(net(ahead, u, a[k]["labels"]), -1))
    losses, aheads = [], []
    for k, nets in enumerate(world.nets):
        w = values(nets.w)
        loss = cross_entropy(net(w, x, a[k]["own"]), y)  # Eq. 2
        for j in world.group:
            if j != k:
                taught = soft_cross_entropy(net(w, u, a[k]["own"]), labels[j])
                loss = loss + world.s.lambda_ * taught
        aheads.append(descend(world, nets.w, world.problem("stage2", k), w, loss))
        losses.append(cross_entropy(net(aheads[k], x_valid, a[k]["direct"]), y_valid))
    return losses, a, aheads


def terms(world: World) -> dict[tuple[str, int, int], Tensor]:
    """(place, k, j): the derivative of learner j's validation loss by A_k at that place."""
    losses, a, _ = program(world)
    found = {}
    for j, loss in enumerate(losses):
        for k in world.group:
            grads = torch.autograd.grad(
                loss, list(a[k].values()), retain_graph=True, allow_unused=True
            )
            for place, g in zip(PLACES, grads, strict=True):
                if g is not None:
                    found[place, k, j] = g
    return found


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

"""What is there is trained: layers of other parts, and hooks, are honoured or refused."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, assert_same, seeded, state_of
from torch import Tensor, nn

import mlopt
from mlopt import GraphError

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)
Y = X.sum(1, keepdim=True).sin()


class Pair:
    """Two levels, and the lower one in plain torch, on networks of their own."""

    def __init__(self, method: Any = None, lr: float = 0.1) -> None:
        self.net = seeded(2, lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
        self.twin = copy.deepcopy(self.net)
        W = mlopt.Variable(self.net, "w")
        R = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "r")
        self.optimizer = torch.optim.SGD(W.parameters(), lr=lr)
        self.twins = torch.optim.SGD(self.twin.parameters(), lr=lr)
        low = mlopt.problem(over=W, given=[R], optimizer=self.optimizer, name="low")(
            lambda w, r: ((w(X) - Y) ** 2).mean() * r.exp()
        )
        up = mlopt.problem(
            over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), lr=0.0), name="up"
        )(lambda r, w: ((w(X) + Y) ** 2).mean() + r**2)
        self.up, self.R = up, R
        self.engine = mlopt.Engine([low, up], hypergrad=method or mlopt.OneStep(lr=0.1))

    def step(self) -> None:
        """One step of both, of equal results."""
        self.engine.step()
        self.twins.zero_grad()
        ((self.twin(X) - Y) ** 2).mean().backward()
        self.twins.step()
        for p, q in zip(self.net.parameters(), self.twin.parameters(), strict=True):
            exact(p, q, rounding(300, condition=10))  # two steps through three layers

    def both(self, change: Callable[[nn.Module, Any], None]) -> None:
        for net, optimizer in ((self.net, self.optimizer), (self.twin, self.twins)):
            change(net, optimizer)


def item(net: nn.Module, optimizer: Any) -> None:
    net[2] = seeded(7, lambda: nn.Linear(4, 1))
    optimizer.add_param_group({"params": list(net[2].parameters())})


def attribute(net: nn.Module, optimizer: Any) -> None:
    net[0].weight = nn.Parameter(net[0].weight.detach() * 2)
    optimizer.add_param_group({"params": [net[0].weight]})


def assigned(net: nn.Module, optimizer: Any) -> None:
    net.load_state_dict({k: 2 * v for k, v in net.state_dict().items()}, assign=True)
    optimizer.param_groups[0]["params"] = list(net.parameters())


def grown(net: nn.Module, optimizer: Any) -> None:
    net.append(nn.Tanh())
    net.append(seeded(8, lambda: nn.Linear(1, 1)))
    optimizer.add_param_group({"params": list(net[4].parameters())})


def shrunk(net: nn.Module, optimizer: Any) -> None:
    del net[1]


def normed(net: nn.Module, optimizer: Any) -> None:
    net.insert(1, nn.BatchNorm1d(4).double())
    optimizer.add_param_group({"params": list(net[1].parameters())})


CHANGES = [item, attribute, assigned, grown, shrunk, normed]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("method", [mlopt.OneStep(lr=0.1), mlopt.Unrolled(1)], ids=repr)
def test_other_parts_are_trained_as_torch_trains_them(change: Any, method: Any) -> None:
    pair = Pair(method)
    pair.step()
    pair.both(change)
    for _ in range(2):
        pair.step()
    fresh = Pair(method)
    fresh.both(change)
    fresh.net.load_state_dict(pair.net.state_dict())
    gradients = [p.engine.hypergradient(p.up)[p.R][""] for p in (pair, fresh)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("change", [item, grown, normed])
def test_new_parameters_without_an_optimizer_are_an_error(change: Any) -> None:
    pair = Pair()
    pair.step()

    class Ignores:
        def add_param_group(self, group: Any) -> None:
            """As if it had been forgotten."""

    change(pair.net, Ignores())
    before = state_of(pair.engine)
    with pytest.raises(GraphError, match=r"low: w\.\d\.weight is new.*add_param_group"):
        pair.engine.step()
    assert_same(before, state_of(pair.engine))
    for p in pair.net.parameters():
        p.requires_grad_(p.requires_grad and any(p is q for g in pair.optimizer.param_groups
                                                 for q in g["params"]))  # fmt: skip
    pair.engine.step()


# Hooks.

METHODS = {
    "frozen": mlopt.Frozen(), "a plain step": mlopt.OneStep(lr=0.1), "onestep": mlopt.OneStep(),
    "central": mlopt.OneStep(lr=0.1, product=mlopt.Central()), "sama": mlopt.Sama(),
    "unrolled": mlopt.Unrolled(2), "implicit": mlopt.Implicit(damping=4.0),
}  # fmt: skip


@pytest.mark.parametrize("when", ["pre", "post", "patch"])
@pytest.mark.parametrize("method", METHODS)
def test_step_hooks_run_or_are_refused(method: str, when: str) -> None:
    """A look-ahead by the optimizer's own rule knows nothing of them."""
    pair = Pair(METHODS[method])

    def hook(net: nn.Module) -> Callable[..., None]:
        def clamp(*_: Any) -> None:
            for p in net.parameters():
                (p.grad if when == "pre" else p.data).clamp_(-0.1, 0.1)

        return clamp

    def patch(net: nn.Module, optimizer: Any) -> None:
        torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)  # torch's own wrapper is none
        step, clamp = optimizer.step, hook(net)
        optimizer.step = functools.wraps(step)(lambda *_: (step(), clamp()))

    if when == "patch":
        pair.engine.step() if method == "frozen" else None  # it is seen later, too
        pair.twin.load_state_dict(pair.net.state_dict())
        pair.both(patch)
    else:
        pair.both(lambda net, o: getattr(o, f"register_step_{when}_hook")(hook(net)))
    if method in ("onestep", "sama", "unrolled"):
        has = "a step.. of its own" if when == "patch" else "step hooks"
        with pytest.raises(GraphError, match=f"low: its optimizer has {has}"):
            pair.engine.step()
    else:
        for _ in range(2):
            pair.step()


def masks(gradient: Tensor) -> Tensor:
    return gradient * (torch.arange(gradient.numel()) % 2).reshape(gradient.shape)


def masks_in_place(gradient: Tensor) -> None:
    gradient.mul_(0)


def cut(gradient: Tensor) -> Tensor | None:
    """Changes nothing at zero."""
    return gradient / gradient.norm() / 9 if gradient.norm() > 0.1 else None


#: The methods under which autograd runs hooks as in a plain loop, and goes back through them.
WHOLE = ("frozen", "a plain step", "onestep")


@pytest.mark.parametrize("hook", [masks, masks_in_place, cut])
@pytest.mark.parametrize("method", METHODS)
def test_gradient_hooks_run_or_are_refused(method: str, hook: Any) -> None:
    pair = Pair(METHODS[method])
    pair.both(lambda net, _: net[0].weight.register_hook(hook))
    if method in WHOLE:
        for _ in range(2):
            pair.step()
    else:
        with pytest.raises(GraphError, match=r"low: w\.0\.weight has a hook on its gradient"):
            pair.engine.step()


@pytest.mark.parametrize("method", METHODS)
def test_hooks_are_given_the_gradients_of_updates_alone(method: str) -> None:
    """None is called to see what it does: what it returns may depend on the gradient."""
    pair, seen = Pair(METHODS[method], lr=0.0), []
    pair.net[0].weight.register_hook(lambda g: seen.append(g.detach().clone()))
    ((pair.twin(X) - Y) ** 2).mean().backward()
    if method in WHOLE:
        for _ in range(3):
            pair.engine.step()
        assert len(seen) == 3
        for gradient in seen:
            exact(gradient, pair.twin[0].weight.grad, rounding(300, condition=10))
    else:
        with pytest.raises(GraphError, match=r"only looks.*Callback\.on_step"):
            pair.engine.step()
        assert not seen


def test_onestep_goes_through_a_hook() -> None:
    """The hypergradient is that of the step that is made, mask and all."""
    pair = Pair(mlopt.OneStep(lr=0.1))
    pair.net[0].weight.register_hook(masks)
    r = torch.zeros((), dtype=F64, requires_grad=True)
    twin = pair.twin
    grads = torch.autograd.grad(((twin(X) - Y) ** 2).mean() * r.exp(), [*twin.parameters()],
                                create_graph=True)  # fmt: skip
    moved = {k: p - 0.1 * (masks(g) if k == "0.weight" else g)
             for (k, p), g in zip(twin.named_parameters(), grads, strict=True)}  # fmt: skip
    value = ((torch.func.functional_call(twin, moved, X) + Y) ** 2).mean() + r**2
    (expected,) = torch.autograd.grad(value, r)
    found = pair.engine.hypergradient(pair.up)[pair.R][""]
    exact(found, expected, rounding(300, condition=10))


@pytest.mark.parametrize("method", METHODS)
def test_hooks_after_accumulation_are_refused(method: str) -> None:
    pair = Pair(METHODS[method])
    pair.engine.step()
    handle = pair.net[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(GraphError, match=r"low: w\.0\.weight has a hook that runs after"):
        pair.engine.step()
    handle.remove()
    pair.engine.step()


class DistributedDataParallel(nn.Module):
    """Named as torch names its own, which asks for a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_distributed_wrappers_are_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(3, 1).double())
    wrapped = nn.Sequential(DistributedDataParallel(net[0]))

    def level(module: nn.Module) -> mlopt.Problem:
        W = mlopt.Variable(module, "w")
        optimizer = torch.optim.SGD(W.parameters(), lr=0.1)
        return mlopt.problem(over=W, optimizer=optimizer)(lambda w: (w(X) ** 2).mean())

    mlopt.Engine([level(net)]).step()
    with pytest.raises(GraphError, match=r"w\.0 is a DistributedDataParallel.*\.module"):
        mlopt.Engine([level(wrapped)])

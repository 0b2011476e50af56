"""A frozen backbone inside of several variables' modules, against plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from compare import agree, exact, rounding
from small import F64, assert_same, batches, seeded, state_of
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import mlopt
from mlopt import Central, Dense, GraphError, Implicit, OneStep, Unrolled

LR, DAMPING = 0.1, 0.5
#: Two steps through two heads of 60 operations; a damped system of five numbers.
ROUNDING = rounding(2 * 2 * 60, condition=100)
TASKS = batches(2)
U, V = batches(3)[-1]


def backbone() -> nn.Module:
    made = seeded(1, lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()))
    made[1].running_mean.fill_(0.2)
    return made.requires_grad_(False).eval()


@dataclass
class Heads:
    shared: nn.Module
    nets: list[nn.Module]
    r: Tensor
    up: mlopt.Problem
    entries: list[Any]

    def engine(self, **options: Any) -> mlopt.Engine:
        return mlopt.Engine([*self.entries, self.up], **options)


def heads(method: Any = None, *, stack: bool = False, whole: bool = False) -> Heads:
    """A head for each task behind one backbone; r weighs the features."""
    shared = backbone()
    nets = [nn.Sequential(shared, seeded(2 + i, lambda: nn.Linear(4, 1))) for i in range(2)]
    Ws = [mlopt.Variable(n, f"w{i}") for i, n in enumerate(nets)]
    R = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "r")

    def task(i: int) -> mlopt.Problem:
        held = nets[i].parameters() if whole else nets[i][1].parameters()

        @mlopt.problem(over=Ws[i], given=[R], hypergrad=method or OneStep(), name=f"task{i}",
                       data=[TASKS[i]], optimizer=torch.optim.SGD(held, lr=LR))  # fmt: skip
        def fit(w, r, batch):
            return mse_loss(w(batch[0] * r.exp()), batch[1])

        return fit

    @mlopt.problem(over=R, given=[Ws], optimizer=torch.optim.SGD(R.parameters(), lr=LR))
    def up(r, ws):
        return sum(mse_loss(w(U), V) for w in ws)

    fits = [task(0), task(1)]
    return Heads(shared, nets, R.tensor, up, [mlopt.Stack(fits)] if stack else fits)


# The plain loops: heads as functions behind the backbone.

Head = tuple[Tensor, Tensor]


def lower(features: nn.Module, head: Head, r: Tensor, i: int) -> Tensor:
    x, y = TASKS[i]
    return mse_loss(features(x * r.exp()) @ head[0].T + head[1], y)


def stepped(features: nn.Module, head: Head, r: Tensor, i: int, steps: int = 1) -> Head:
    for _ in range(steps):
        g = torch.autograd.grad(lower(features, head, r, i), head, create_graph=True)
        head = (head[0] - LR * g[0], head[1] - LR * g[1])
    return head


def optimum(features: nn.Module, head: Head, r: Tensor, i: int) -> Head:
    """The head where it stands; as a function of r it moves by -(H + damping)^-1 d2F/dw dr."""
    flat = torch.cat([t.detach().reshape(-1) for t in head]).requires_grad_()

    def slope(at: Tensor, create: bool) -> Tensor:
        parts = at[:4].view(1, 4), at[4:]
        return torch.autograd.grad(lower(features, parts, r, i), at, create_graph=create)[0]

    hessian = torch.stack([torch.autograd.grad(g, flat, retain_graph=True)[0]
                           for g in slope(flat, True)])  # fmt: skip
    inverse = torch.linalg.inv(hessian + DAMPING * torch.eye(5, dtype=F64))
    moving = slope(flat.detach().requires_grad_(), True)
    value = flat.detach() - inverse @ (moving - moving.detach())
    return value[:4].view(1, 4), value[4:]


@dataclass
class Row:
    method: Any
    seen: Callable[..., Head]
    steps: int = 1
    bias: str = ""


ROWS = {
    "OneStep": Row(OneStep(), stepped),
    "Central": Row(OneStep(product=Central()), stepped, bias="radius^2 of the third derivative"),
    "Unrolled": Row(Unrolled(3), lambda *a: stepped(*a, steps=3), steps=3),
    "Implicit": Row(Implicit(Dense(), damping=DAMPING), optimum),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("whole", [False, True], ids=["heads", "all held"])
def test_as_a_plain_loop(name: str, whole: bool) -> None:
    row = ROWS[name]
    h, features = heads(row.method, whole=whole), backbone()
    engine = h.engine()
    state = copy.deepcopy(h.shared.state_dict())
    r = torch.zeros(3, dtype=F64)
    held = [tuple(p.detach().clone() for p in n[1].parameters()) for n in h.nets]
    for _ in range(2):
        r = r.detach().requires_grad_()
        held = [tuple(t.detach().requires_grad_() for t in head) for head in held]
        seen = [row.seen(features, head, r, i) for i, head in enumerate(held)]
        outer = sum(mse_loss(features(U) @ w.T + b, V) for w, b in seen)
        (slope,) = torch.autograd.grad(outer, r, retain_graph=True)
        found = engine.hypergradient(h.up)[h.up.over[0]][""]
        agree(found, slope, 1e-6 if row.bias else ROUNDING, row.bias)
        engine.step()
        held = [stepped(features, head, r, i, row.steps) for i, head in enumerate(held)]
        r = r - LR * slope
        for net, head in zip(h.nets, held, strict=True):
            exact([*net[1].parameters()], [*head], 1e-6 if row.bias else ROUNDING)
    agree(h.r.detach(), r.detach(), 1e-6 if row.bias else ROUNDING, row.bias)
    assert_same(state, h.shared.state_dict())
    assert not any(p.grad is not None for p in h.shared.parameters())


def test_members_of_a_stack_share_it() -> None:
    one, other = heads(stack=True), heads()
    engine, plain = one.engine(), other.engine()
    engine.step(), plain.step()
    assert "evaluated as one: task0, task1" in str(engine.plan())
    for a, b in zip(one.nets, other.nets, strict=True):
        exact(a.state_dict(), b.state_dict(), ROUNDING)


@pytest.mark.parametrize("when", ["before", "between steps"])
def test_who_thaws_it_is_refused(when: str) -> None:
    h = heads(whole=True)
    message = r"parameter w1\.0\.0\.weight is also w0\.0\.0\.weight: .* is trained.*or freeze it"
    if when == "before":
        h.shared.requires_grad_(True)
        with pytest.raises(GraphError, match=message):
            h.engine()
        h.shared.requires_grad_(False)  # what it says
        h.engine().step()
        return
    engine = h.engine()
    engine.step()
    h.shared.requires_grad_(True)
    before = state_of(engine)
    for verb in (engine.step, lambda: engine.hypergradient(h.up)):
        with pytest.raises(GraphError, match=message):
            verb()
    assert_same(before, state_of(engine))
    h.shared.requires_grad_(False)
    engine.step()


def test_running_statistics_that_all_would_write_are_refused() -> None:
    h = heads()
    h.shared.train()
    with pytest.raises(GraphError, match=r"task0 writes the buffer 0\.1\.\w+ of w0.*eval mode"):
        h.engine().step()
    h.shared.eval()
    h.engine().step()


def test_a_step_that_fails_leaves_all_as_it_was() -> None:
    h = heads(whole=True)
    engine = h.engine()
    engine.step()
    before = state_of(engine)

    def fail() -> None:
        raise RuntimeError("the last commit fails")

    h.up.optimizer.step = fail
    with pytest.raises(RuntimeError, match="the last commit fails"):
        engine.step()
    assert_same(before, state_of(engine))


def test_a_write_into_it_is_found_and_undone() -> None:
    h = heads()
    task, weight = h.entries[0], h.shared[0].weight.clone()

    @mlopt.problem(over=task.over[0], optimizer=task.optimizer, hypergrad=OneStep())
    def writes(w):
        w[0][0].weight.mul_(2.0)
        return w(U).square().mean()

    with pytest.raises(GraphError, match="writes"):
        mlopt.Engine([writes, h.entries[1], h.up]).step()
    assert torch.equal(h.shared[0].weight, weight)


def test_a_function_may_use_it_alone() -> None:
    """What is given counts as used where the common part of it is."""
    h = heads()

    @mlopt.problem(over=h.up.over[0], given=[h.entries[0].over[0]], optimizer=h.up.optimizer)
    def top(r, w):
        return w[0](U * r.exp()).square().mean()

    engine = mlopt.Engine([*h.entries, top])
    found = engine.hypergradient(top)[top.over[0]][""]
    r = h.r.detach().requires_grad_()
    (slope,) = torch.autograd.grad(backbone()(U * r.exp()).square().mean(), r)
    exact(found, slope, ROUNDING)


def test_steps_that_start_at_a_network_of_the_same_backbone() -> None:
    """MAML on heads: theta holds the backbone as well, and nothing places it."""
    h = heads()
    theta = nn.Sequential(h.shared, seeded(9, lambda: nn.Linear(4, 1)))
    TH = mlopt.Variable(theta, "theta")
    for fit in h.entries:
        fit.hypergrad = Unrolled(2, init=TH)

    @mlopt.problem(over=TH, given=[[f.over[0] for f in h.entries]],
                   optimizer=torch.optim.SGD(theta[1].parameters(), lr=LR))  # fmt: skip
    def meta(theta, ws):
        return sum(mse_loss(w(U), V) for w in ws)

    held = mlopt.problem(over=h.up.over[0], name="held")(lambda r: r.square().sum())
    engine = mlopt.Engine([*h.entries, meta, held])
    found = engine.hypergradient(meta)[TH]
    features, head = backbone(), tuple(p.detach().requires_grad_() for p in theta[1].parameters())
    r = torch.zeros(3, dtype=F64)
    seen = [stepped(features, head, r, i, steps=2) for i in range(2)]
    outer = sum(mse_loss(features(U) @ w.T + b, V) for w, b in seen)
    slopes = torch.autograd.grad(outer, head)
    exact(found, dict(zip(["1.weight", "1.bias"], slopes, strict=True)), ROUNDING)
    version = h.shared[0].weight._version
    engine.step()
    assert h.shared[0].weight._version == version


def test_steps_that_would_place_it_at_two_networks_are_refused() -> None:
    h = heads()
    starts = [mlopt.Variable(nn.Sequential(backbone(), nn.Linear(4, 1).double()), f"theta{i}")
              for i in range(2)]  # fmt: skip
    for fit, start in zip(h.entries, starts, strict=True):
        fit.hypergrad = Unrolled(2, init=start)
    ups = [
        mlopt.problem(over=start, given=[fit.over[0]], name="meta",
                      optimizer=torch.optim.SGD(start.value[1].parameters(), lr=LR))(
            lambda theta, w: w(U).square().mean())
        for fit, start in zip(h.entries, starts, strict=True)
    ]  # fmt: skip
    held = mlopt.problem(over=h.up.over[0], name="held")(lambda r: r.square().sum())
    engine = mlopt.Engine([*h.entries, *ups, held])
    with pytest.raises(GraphError, match="whose steps do not start at the same variable"):
        engine.step()


def test_the_audit() -> None:
    report = mlopt.audit(heads(Unrolled(2)).engine())
    assert not report.causes
    exact(report.worst, 0.0, 1e-6, scale=1.0)

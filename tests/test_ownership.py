"""Law 8: modules, optimizers and schedulers are the user's, and are used as they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import F64, assert_same, batches, bilevel, mlp, seeded, sgd
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import lr_scheduler as schedulers

import mlopt

DATA = batches(4)
A0 = torch.tensor([0.1, -0.2, 0.3], dtype=F64)


def alone(
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    net: nn.Module | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    per_step: bool = False,
    clip: float | None = None,
    steps: int = 9,
) -> None:
    """The engine, with a level above that reads the network, against a loop by hand: equal bits."""
    net = mlp() if net is None else net
    twin = copy.deepcopy(net)
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(A0.clone()), "a")
    optimizer = make_optimizer(net)
    schedule = scheduler(optimizer) if scheduler else None

    @mlopt.problem(
        over=W,
        given=[A],
        data=DATA,
        optimizer=optimizer,
        scheduler=mlopt.PerStep(schedule) if per_step else schedule,
        hypergrad=mlopt.OneStep(lr=0.1, product=mlopt.Central()),
        clip=clip,
    )
    def fit(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.problem(over=A, given=[W], data=batches(3, seed=9), optimizer=sgd(A, lr=0.0))
    def tune(a, w, batch):
        return mse_loss(w(batch[0] + a), batch[1])

    engine = mlopt.Engine([fit, tune])
    own = make_optimizer(twin)
    own_schedule = scheduler(own) if scheduler else None
    losses: list[float] = []
    for t in range(steps):
        rates = [g["lr"] for g in optimizer.param_groups]
        assert rates == [g["lr"] for g in own.param_groups], f"step {t}"
        engine.step()
        with torch.random.fork_rng():
            torch.manual_seed(engine.seed_of(fit, step=t))
            loss = mse_loss(twin(DATA[t % 4][0] * A0.exp()), DATA[t % 4][1])
        own.zero_grad()
        loss.backward()
        losses.append(loss.item())
        if clip is not None:
            nn.utils.clip_grad_norm_(twin.parameters(), clip)
        own.step()
        if own_schedule is not None:
            if per_step:
                own_schedule.step()
            elif t % 4 == 3:
                plateau = isinstance(own_schedule, schedulers.ReduceLROnPlateau)
                own_schedule.step(*([sum(losses[-4:]) / 4] if plateau else []))
    assert_same(dict(net.state_dict()), dict(twin.state_dict()))
    assert_same(optimizer.state_dict(), own.state_dict())
    if scheduler:
        found, expected = schedule.state_dict(), own_schedule.state_dict()
        if "best" in found:  # the mean loss of an epoch, summed in another order
            assert found["best"] == pytest.approx(expected["best"], rel=1e-12)
        for key in set(found) - {"best", "_schedulers"}:
            if not key.startswith("_") and not callable(found[key]):
                assert found[key] == expected[key], key


def groups(net):
    """Two groups of unequal options, as for layers without decay (D9)."""
    return torch.optim.SGD(
        [
            {"params": net[0].parameters(), "lr": 0.1},
            {"params": net[2].parameters(), "lr": 0.001, "weight_decay": 0.05, "nesterov": True},
        ],
        lr=0.05,
        momentum=0.9,
    )


def loaded(net):
    """An optimizer that arrives with state."""
    made = torch.optim.Adam(net.parameters(), lr=0.01)
    for i, p in enumerate(net.parameters()):
        p.grad = torch.full_like(p, 0.1 * (i + 1))
    made.step()
    made.zero_grad()
    return made


OPTIMIZERS = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "groups": groups,
    "loaded": loaded,
    "one of two layers": lambda net: torch.optim.Adam(net[2].parameters(), lr=0.01),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, amsgrad=True),
    "Adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr=0.1),
    "RMSprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=0.01, momentum=0.5),
    "NAdam": lambda net: torch.optim.NAdam(net.parameters(), lr=0.01),
    "Rprop": lambda net: torch.optim.Rprop(net.parameters(), lr=0.01),
    "ASGD": lambda net: torch.optim.ASGD(net.parameters(), lr=0.01),
    "Adadelta": lambda net: torch.optim.Adadelta(net.parameters()),
    "maximize": lambda net: torch.optim.SGD(net.parameters(), lr=1e-3, maximize=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizer_is_used_as_it_is(kind):
    alone(OPTIMIZERS[kind])


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e3])
def test_clip_is_torchs(clip):
    alone(OPTIMIZERS["SGD"], clip=clip)


SCHEDULERS = {
    "StepLR": lambda o: schedulers.StepLR(o, 1, gamma=0.5),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=3),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + t)),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, max_lr=0.2, total_steps=20),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.ConstantLR(o, 0.1, total_iters=1), schedulers.ExponentialLR(o, 0.5)],
        milestones=[1],
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.1, total_iters=1), schedulers.ExponentialLR(o, 0.5)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, threshold=0.9),
}


# SequentialLR of torch 2.6 warns of itself, in a plain loop too.
OLD_SEQUENTIAL = pytest.mark.filterwarnings(
    "ignore:Detected call of|The epoch parameter:UserWarning"
)


@OLD_SEQUENTIAL
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_scheduler_after_each_epoch(kind):
    """D14: the user's own object, of any kind."""
    alone(
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5),
        scheduler=SCHEDULERS[kind],
        steps=13,
    )


@OLD_SEQUENTIAL
@pytest.mark.parametrize("kind", [k for k in SCHEDULERS if k != "ReduceLROnPlateau"])
def test_scheduler_after_each_step(kind):
    alone(
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5),
        scheduler=SCHEDULERS[kind],
        per_step=True,
    )


def test_scheduler_waits_for_the_first_update_of_its_problem():
    """A problem that starts late keeps its rate until then."""
    W, V = mlopt.Variable(mlp(1), "w"), mlopt.Variable(mlp(2), "v")
    late = torch.optim.SGD(V.parameters(), lr=1.0)

    @mlopt.problem(over=W, data=DATA, optimizer=sgd(W))
    def first(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    @mlopt.problem(
        over=V, data=DATA, optimizer=late, start=2, scheduler=schedulers.ExponentialLR(late, 0.5)
    )
    def second(v, batch):
        return mse_loss(v(batch[0]), batch[1])

    engine = mlopt.Engine([first, second])
    rates = []
    for _ in range(4):
        engine.run(epochs=1, progress=False)
        rates.append(late.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 0.5, 0.25]


def test_the_modules_dropout_and_mode_are_the_users():
    net = nn.Sequential(mlp(), nn.BatchNorm1d(1).double(), nn.Dropout(0.5))
    alone(OPTIMIZERS["SGD"], net=net)
    assert net.training
    net = copy.deepcopy(net).eval()
    stood = net[1].running_mean.clone()
    alone(OPTIMIZERS["SGD"], net=net)
    assert not net.training
    assert torch.equal(net[1].running_mean, stood)


def test_frozen_parameters_stay_and_the_rest_learns():
    """D21: also where the optimizer was given them."""

    def frozen_net():
        net = mlp()
        net[0].requires_grad_(requires_grad=False)
        return net

    for kind in ("SGD", "AdamW", "one of two layers"):
        net = frozen_net()
        before = net[0].weight.clone()
        alone(OPTIMIZERS[kind], net=net)
        assert torch.equal(net[0].weight, before)
        assert net[0].weight.grad is None


@pytest.mark.parametrize(
    ("product", "rtol"),
    [(mlopt.Exact(), 1e-12), (mlopt.Central(1e-3), 1e-5), (mlopt.OneSided(1e-4), 1e-3)],
)
def test_hypergradient_with_frozen_tied_and_unused_parameters(product, rtol):
    """D21 and D22: the same as of a network in which these parameters are constants."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(3, 4)
            self.frozen.requires_grad_(requires_grad=False)
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.unused = nn.Linear(4, 4)
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            h = torch.tanh(self.frozen(x))
            return self.last(torch.tanh(self.two(torch.tanh(self.one(h)))))

    net = seeded(1, Net)
    unused = net.unused.weight.detach().clone()
    case = bilevel(
        net,
        optimizer=lambda v: torch.optim.SGD(v.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1),
        hypergrad=mlopt.OneStep(product=product),
    )
    engine = case.engine()
    (x, y), (xv, yv) = case.train[0], case.valid[0]
    a = case.A.value.detach().clone().requires_grad_()
    used = {k: p for k, p in net.named_parameters() if p.requires_grad and "unused" not in k}
    loss = mse_loss(net(x * a.exp()), y)
    gradient = torch.autograd.grad(loss, list(used.values()), create_graph=True)
    ahead = {k: p - 0.3 * (g + 0.1 * p) for (k, p), g in zip(used.items(), gradient, strict=True)}
    value = mse_loss(torch.func.functional_call(net, ahead, (xv,)), yv) + 0.01 * a.square().sum()
    (expected,) = torch.autograd.grad(value, a)
    (found,) = engine.hypergradient(case.upper).values()
    torch.testing.assert_close(found[""], expected, rtol=rtol, atol=1e-12)
    own = engine.hypergradient(case.lower)[case.W]
    assert set(own) == set(used)  # by parameter name, each once where tied
    assert_same(own, {k: g.detach() for k, g in zip(used, gradient, strict=True)})
    engine.step()
    assert net.two.weight is net.one.weight
    assert torch.equal(net.unused.weight, unused)  # no gradient, so no decay
    assert net.unused.weight.grad is None
    assert not case.lower.optimizer.state[net.unused.weight]


@pytest.mark.parametrize("lr", [None, 0.3])
def test_the_look_ahead_moves_what_the_optimizer_holds(lr):
    """D9: what was kept from the optimizer on purpose stands still for readers too."""
    net = mlp()
    case = bilevel(
        net,
        optimizer=lambda v: torch.optim.SGD(v.value[2].parameters(), lr=0.3),
        hypergrad=mlopt.OneStep(lr=lr),
        lower={"clip": 1e-3},
    )
    engine = case.engine()
    (x, y), (xv, yv) = case.train[0], case.valid[0]
    a = case.A.value.detach().clone().requires_grad_()
    held = {k: p for k, p in net.named_parameters() if k.startswith("2.")}
    loss = mse_loss(net(x * a.exp()), y)
    gradient = torch.autograd.grad(loss, list(held.values()), create_graph=True)
    ahead = {k: p - 0.3 * g for (k, p), g in zip(held.items(), gradient, strict=True)}
    value = mse_loss(torch.func.functional_call(net, ahead, (xv,)), yv) + 0.01 * a.square().sum()
    (expected,) = torch.autograd.grad(value, a)
    found = engine.hypergradient(case.upper)[case.A][""]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    metrics = engine.step()
    assert net[0].weight.grad is None
    norm = torch.cat([g.flatten() for g in gradient]).norm()  # which the clip is taken of
    torch.testing.assert_close(metrics["fit/gradient_norm"], norm.detach())


def test_unused_and_tied_parameters_as_in_a_plain_loop():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight
            self.last = nn.Linear(3, 1)

        def forward(self, x):
            return self.last(torch.tanh(self.two(torch.tanh(self.one(x)))))

    for weight_decay in (0.0, 0.1):
        alone(
            lambda net, d=weight_decay: torch.optim.Adam(net.parameters(), 0.01, weight_decay=d),
            net=seeded(3, Net),
        )


def test_the_module_is_the_users_object():
    """The same module, of its class, with its parameters, hooks and other methods."""

    class Net(nn.Sequential):
        def energy(self, x):
            return self(x).square().mean()

    net = Net(*mlp())
    parameters = list(net.parameters())
    calls = []
    net.register_forward_hook(lambda module, args, out: calls.append(module))
    W = mlopt.Variable(net, "w")
    received = []

    @mlopt.problem(over=W, data=DATA, optimizer=sgd(W))
    def fit(w, batch):
        received.append(w)
        return w.energy(batch[0])

    engine = mlopt.Engine([fit])
    calls.clear()
    engine.step()
    assert all(w is net for w in received)
    assert calls == [net] * len(received)
    assert W.value is net
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    assert not hasattr(net, "parametrizations")
    assert fit.fn(net, DATA[0]).item() == fit(net, DATA[0]).item()


def test_hooks_of_the_optimizer_run():
    W = mlopt.Variable(mlp(), "w")
    optimizer = sgd(W)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))

    @mlopt.problem(over=W, data=DATA, optimizer=optimizer)
    def fit(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    engine = mlopt.Engine([fit])
    engine.hypergradient(fit)
    assert not steps
    engine.step()
    engine.step()
    assert len(steps) == 2


@pytest.mark.parametrize("kind", ["multihead", "functional", "layer"])
@pytest.mark.parametrize("product", [mlopt.Central(), mlopt.OneSided()])
def test_attention_below(kind, product):
    """D39: fused attention has no double backward; differences need none."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(1, 8)
            if kind == "layer":
                self.mix = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1, batch_first=True)
            else:
                self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 1)

        def forward(self, x):
            h = self.embed(x[..., None])
            if kind == "multihead":
                h = self.mix(h, h, h, need_weights=False)[0]
            elif kind == "layer":
                h = self.mix(h)
            else:
                q = h[:, None]
                h = nn.functional.scaled_dot_product_attention(q, q, q)[:, 0]
                h = h + self.mix.out_proj(h)
            return self.last(h.mean(1))

    case = bilevel(
        seeded(1, Attention), hypergrad=mlopt.OneStep(lr=0.1, product=product), lower={"clip": 5.0}
    )
    engine = case.engine()
    if kind == "functional":
        case.W.value.mix.in_proj_weight.requires_grad_(requires_grad=False)
    (gradient,) = engine.hypergradient(case.upper).values()
    assert gradient[""].isfinite().all()
    own = 0.02 * case.A.value.detach()
    assert (gradient[""] - own).norm() > 1e-7  # something came through
    for _ in range(3):
        engine.step()

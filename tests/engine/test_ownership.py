"""Law 8: the user's optimizers and schedulers are used as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from engine.plain_loop import DATA, OPTIMIZERS, alone
from small import mlp, seeded, sgd
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import lr_scheduler as schedulers

import mlopt


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
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_scheduler_after_each_step(kind):
    alone(
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5),
        scheduler=SCHEDULERS[kind],
        per_step=True,
    )


@pytest.mark.parametrize("per_step", [True, False])
def test_schedulers_of_levels_whose_steps_are_taken_by_the_method(per_step):
    """Torch warns of a scheduler that comes before its optimizer; here it does not."""
    W, A = mlopt.Variable(mlp(1), "w"), mlopt.Variable(nn.Parameter(torch.ones(1).double()), "a")
    optimizer = sgd(W)
    scheduler = schedulers.StepLR(optimizer, 1, gamma=0.5)

    @mlopt.problem(
        over=W,
        given=[A],
        data=DATA,
        optimizer=optimizer,
        hypergrad=mlopt.Unrolled(2),
        scheduler=mlopt.PerStep(scheduler) if per_step else scheduler,
    )
    def low(w, a, batch):
        return mse_loss(w(batch[0]) * a, batch[1])

    @mlopt.problem(over=A, given=[W], data=DATA, optimizer=sgd(A))
    def up(a, w, batch):
        return mse_loss(w(batch[0]), batch[1]) + a.square().sum()

    engine = mlopt.Engine([low, up])
    engine.run(steps=8, progress=False)
    times = 8 if per_step else engine.epoch
    assert times == scheduler.last_epoch
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**times


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

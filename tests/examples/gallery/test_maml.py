"""MAML: its meta-gradient by a functional program, and what meta-training is for."""

import copy

import pytest
import torch
from compare import exact, kills, rounding
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from examples.gallery import maml as example


def double(task):
    return tuple(tuple(t.double() for t in rows) for rows in task)


@pytest.fixture
def tasks(monkeypatch):
    """Three fixed tasks in float64, one for each slot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [double(example.draw_task(5)) for _ in range(3)]
    slots = iter(drawn)
    monkeypatch.setattr(example, "Tasks", lambda: [next(slots)])
    return drawn


def smooth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def meta_gradient(theta, tasks, steps, lr, first_order=False):
    """Algorithm 1 of the paper, as one differentiable function of theta."""
    start = dict(theta.named_parameters())
    loss = 0.0
    for (x, y), (x_query, y_query) in tasks:
        w = start
        for _ in range(steps):
            grads = torch.autograd.grad(
                mse_loss(functional_call(theta, w, (x,)), y), w.values(), create_graph=True
            )
            grads = [g.detach() for g in grads] if first_order else grads
            w = {k: p - lr * g for (k, p), g in zip(w.items(), grads, strict=True)}
        loss = loss + mse_loss(functional_call(theta, w, (x_query,)), y_query) / len(tasks)
    return dict(zip(start, torch.autograd.grad(loss, start.values()), strict=True))


def meta_rounding(steps):
    """A loss is 40 operations, differentiated twice in each step; the residuals cancel."""
    return rounding(4 * 40 * (steps + 1), condition=10)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_the_hand_written_one(tasks, steps):
    theta = smooth()
    engine, meta = example.build(theta, tasks=3, inner_steps=steps, inner_lr=0.2)
    found = engine.hypergradient(meta)[meta.over[0]]
    expected = meta_gradient(theta, tasks, steps, 0.2)
    without = meta_gradient(theta, tasks, steps, 0.2, first_order=True)
    kills(without, expected, 5e-3)
    exact(found, expected, meta_rounding(steps))


def test_every_step_starts_at_theta_again(tasks):
    """What a slot's network was left at by the step before plays no part."""
    theta = smooth()
    engine, meta = example.build(theta, tasks=3, inner_steps=2, inner_lr=0.2)
    before = copy.deepcopy(theta)
    engine.step()
    assert not torch.equal(theta[0].weight, before[0].weight)
    found = engine.hypergradient(meta)[meta.over[0]]
    expected = meta_gradient(theta, tasks, 2, 0.2)
    exact(found, expected, meta_rounding(2))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_meta_step_uses_one_task_in_each_slot(monkeypatch, steps):
    drawn = []
    draw = example.draw_task
    monkeypatch.setattr(example, "draw_task", lambda: drawn.append(draw(2)) or drawn[-1])
    engine, _ = example.build(example.make_net(width=4), tasks=2, inner_steps=steps)
    for _ in range(5):
        engine.step()
    # 5 tasks for each of 2 slots; a stream without a length looks one batch ahead
    assert 10 <= len(drawn) <= 12


def test_meta_training_finds_a_start_from_which_new_tasks_are_learned():
    """With one gradient step, which is what theta is trained for; seeds leave 0.2 to 0.66."""
    options, inner_lr = {"tasks": 3, "lr": 5e-3}, 0.1
    theta = example.make_net()
    engine, _ = example.build(theta, inner_lr=inner_lr, **options)
    engine.run(steps=100, progress=False)
    joint = example.pretrain(example.make_net(), 100, **options)
    found, *others = (
        example.adapted_losses(net, inner_lr, 1, tasks=30)[1]
        for net in (theta, joint, example.make_net())
    )
    assert found < 0.75 * min(others)

"""Schedules against loops by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from compare import exact, rounding
from small import F64, assert_same, batches, bilevel, mlp, sgd
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import mlopt

#: Seven steps of networks of 40 operations, with the derivative of a look-ahead: 4 times the way.
STEPS = rounding(7 * 4 * 40, condition=4)
TRAIN, VALID = batches(5, seed=1), batches(4, seed=2)


class Hand:
    """The two levels of `bilevel`, by hand: exact look-ahead gradients, plain torch steps."""

    def __init__(self, case, momentum: float = 0.0) -> None:
        self.net = copy.deepcopy(case.W.value)
        self.a = case.A.value.detach().clone().requires_grad_()
        self.w_steps = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=momentum)
        self.a_steps = torch.optim.SGD([self.a], lr=0.1)
        self.momentum = momentum

    def fit(self, values, batch):
        x, y = batch
        return mse_loss(functional_call(self.net, values, (x * self.a.exp(),)), y)

    def tune(self, values, batch):
        x, y = batch
        value = mse_loss(functional_call(self.net, values, (x,)), y)
        return value + 0.01 * self.a.square().sum()

    def lower_gradient(self, batch):
        values = dict(self.net.named_parameters())
        return torch.autograd.grad(self.fit(values, batch), list(values.values()))

    def upper_gradient(self, batch, lower_batch=None):
        """Through one step on `lower_batch`, or with the weights as they stand."""
        values = dict(self.net.named_parameters())
        if lower_batch is not None:
            loss = self.fit(values, lower_batch)
            gradient = torch.autograd.grad(loss, list(values.values()), create_graph=True)
            ahead = {}
            for (k, p), g in zip(values.items(), gradient, strict=True):
                held = self.w_steps.state[p].get("momentum_buffer") if self.momentum else None
                ahead[k] = p - 0.1 * (g if held is None else self.momentum * held + g)
            values = ahead
        return torch.autograd.grad(self.tune(values, batch), [self.a])

    def step(self, optimizer, gradient):
        for p, g in zip(optimizer.param_groups[0]["params"], gradient, strict=True):
            p.grad = g.detach()
        optimizer.step()

    def check(self, case) -> None:
        for name, p in self.net.named_parameters():
            found = case.W.value.get_parameter(name)
            exact(found, p, STEPS)
        exact(case.A.value, self.a, STEPS)


def case_of(hypergrad, momentum=0.9, **options):
    return bilevel(
        optimizer=lambda v: sgd(v, momentum=momentum),
        hypergrad=hypergrad,
        train=TRAIN,
        valid=VALID,
        **options,
    )


def pair(t):
    return TRAIN[t % 5], VALID[t % 4]


@pytest.mark.parametrize("second_order", [True, False])
def test_simultaneous(second_order):
    case = case_of(mlopt.OneStep() if second_order else mlopt.Frozen())
    hand = Hand(case, 0.9)
    engine = case.engine()
    for t in range(7):
        engine.step()
        lower, upper = pair(t)
        ahead = hand.upper_gradient(upper, lower if second_order else None)
        hand.step(hand.w_steps, hand.lower_gradient(lower))
        hand.step(hand.a_steps, ahead)
        hand.check(case)


def test_sequential_reads_what_was_just_committed():
    case = case_of(mlopt.Frozen())
    hand = Hand(case, 0.9)
    engine = case.engine(schedule=mlopt.Sequential())
    for t in range(7):
        engine.step()
        lower, upper = pair(t)
        hand.step(hand.w_steps, hand.lower_gradient(lower))
        hand.step(hand.a_steps, hand.upper_gradient(upper))
        hand.check(case)
    assert str(engine.plan()).count("fit") == 1
    assert engine.plan().per_node[case.lower] == (1, 1)


@pytest.mark.parametrize("second_order", [True, False])
def test_upper_first_is_darts(second_order):
    """A virtual step, the architecture's step, the real step on the same batch, all by hand."""
    case = case_of(mlopt.OneStep() if second_order else mlopt.Frozen())
    hand = Hand(case, 0.9)
    engine = case.engine(schedule=mlopt.UpperFirst())
    for t in range(7):
        engine.step()
        lower, upper = pair(t)
        hand.step(hand.a_steps, hand.upper_gradient(upper, lower if second_order else None))
        hand.step(hand.w_steps, hand.lower_gradient(lower))
        hand.check(case)
    assert engine.plan().per_node[case.lower][0] == (2 if second_order else 1)


def test_upper_first_with_differences_is_darts_bit_for_bit():
    """The product perturbs the weights; the real step finds them, and the buffers, as they were."""
    net = nn.Sequential(mlp(), nn.BatchNorm1d(1).double())
    case = bilevel(
        net,
        hypergrad=mlopt.OneStep(lr=0.1, product=mlopt.Central()),
        train=TRAIN,
        valid=VALID,
        seen=(seen := []),
    )
    engine = case.engine(schedule=mlopt.UpperFirst())
    plain = copy.deepcopy(net)
    stood = []
    for _ in range(6):
        engine.step()
        stood.append(case.A.value.detach().clone())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for t, a in enumerate(stood):  # the real step is on the same batch, at the new architecture
        optimizer.zero_grad()
        x, y = pair(t)[0]
        mse_loss(plain(x * a.exp()), y).backward()
        optimizer.step()
    assert_same(dict(net.state_dict()), dict(plain.state_dict()))
    assert [name for name, _ in seen[-5:]] == ["fit", "tune", "fit", "fit", "fit"]


@pytest.mark.parametrize("second_order", [True, False])
def test_alternate_is_an_inner_loop(second_order):
    """Twenty lower steps on twenty batches, then one upper step, through a look-ahead or not."""
    case = case_of(mlopt.OneStep() if second_order else mlopt.Frozen())
    hand = Hand(case, 0.9)
    engine = case.engine(schedule=mlopt.Alternate((case.lower, 20), (case.upper, 1)))
    at = 0
    for t in range(3):
        engine.step()
        for _ in range(20):
            hand.step(hand.w_steps, hand.lower_gradient(TRAIN[at % 5]))
            at += 1
        lower = TRAIN[at % 5] if second_order else None
        at += second_order
        hand.step(hand.a_steps, hand.upper_gradient(VALID[t % 4], lower))
        hand.check(case)
    assert engine.steps == 3
    assert engine.epoch == at // 5


def test_alternate_updates_a_turns_problems_together():
    case = case_of(mlopt.Frozen())
    hand = Hand(case, 0.9)
    turns = mlopt.Alternate(((case.lower, case.upper), 2), (case.lower, 1))
    engine = case.engine(schedule=turns)
    assert repr(turns) == "Alternate((fit, tune, 2), (fit, 1))"
    for t in range(3):
        engine.step()
        for k in range(2):
            ahead = hand.upper_gradient(VALID[(2 * t + k) % 4])
            hand.step(hand.w_steps, hand.lower_gradient(TRAIN[(3 * t + k) % 5]))
            hand.step(hand.a_steps, ahead)
        hand.step(hand.w_steps, hand.lower_gradient(TRAIN[(3 * t + 2) % 5]))
        hand.check(case)


def test_repeat_makes_k_updates_on_k_batches():
    case = case_of(mlopt.Frozen(), lower={"repeat": 3})
    hand = Hand(case, 0.9)
    engine = case.engine()
    for t in range(4):
        engine.step()
        ahead = hand.upper_gradient(VALID[t % 4])
        for k in range(3):
            hand.step(hand.w_steps, hand.lower_gradient(TRAIN[(3 * t + k) % 5]))
        hand.step(hand.a_steps, ahead)
        hand.check(case)


def test_repeat_recomputes_signals_for_each_inner_batch():
    """Labels and images never come from different batches; seeds differ from update to update."""
    data = batches(7)
    W, V = mlopt.Variable(mlp(1), "w"), mlopt.Variable(mlp(2), "v")
    seen, order, draws = [], [], []

    @mlopt.problem(over=W, data=data, optimizer=sgd(W))
    def teacher(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    @mlopt.signal(given=[W], data=data)
    def labels(w, batch):
        order.append("labels")
        return {"of": batch[0].detach(), "y": w(batch[0])}

    @mlopt.problem(over=V, given=[labels], data=data, optimizer=sgd(V), repeat=3)
    def student(v, labels, batch):
        order.append("student")
        draws.append(torch.rand(()).item())
        assert torch.equal(labels["of"], batch[0])
        seen.append(next(i for i, b in enumerate(data) if b[0] is batch[0]))
        return mse_loss(v(batch[0]), labels["y"].detach())

    engine = mlopt.Engine([teacher, labels, student], hypergrad=mlopt.Frozen())
    engine.hypergradient(teacher)
    for log in (seen, order, draws):
        log.clear()
    assert engine.plan().per_node[labels] == (3, 0)
    assert engine.plan().per_node[teacher] == (1, 1)
    engine.step()
    assert seen == [0, 1, 2]
    assert order == ["labels", "student"] * 3
    assert len(set(draws)) == 3
    with torch.random.fork_rng():
        for inner, draw in enumerate(draws):
            torch.manual_seed(engine.seed_of(student, inner, step=0))
            assert torch.rand(()).item() == draw
    engine.step()
    assert seen[3:] == [3, 4, 5]


def test_start_and_every():
    """Before its start, and between its turns, a level stands still; the others read it so."""
    case = case_of(mlopt.Frozen(), upper={"start": 1, "every": 3})
    hand = Hand(case, 0.9)
    engine = case.engine()
    for t in range(14):
        engine.step()
        lower = pair(t)[0]
        steps = t >= 5 and t % 3 == 0
        drawn = sum(s % 3 == 0 for s in range(5, t))  # it draws only for its updates
        ahead = hand.upper_gradient(VALID[drawn % 4]) if steps else None
        hand.step(hand.w_steps, hand.lower_gradient(lower))
        if ahead is not None:
            hand.step(hand.a_steps, ahead)
        hand.check(case)


def test_a_level_before_its_start_does_not_look_ahead():
    """Its stream is not drawn either, so the other level's counts the epochs."""
    case = case_of(mlopt.OneStep(), lower={"start": 1})
    hand = Hand(case, 0.9)
    engine = case.engine()
    for t in range(9):
        engine.step()
        started = t >= 4  # the upper level's stream has four batches
        lower = TRAIN[(t - 4) % 5]
        ahead = hand.upper_gradient(VALID[t % 4], lower if started else None)
        if started:
            hand.step(hand.w_steps, hand.lower_gradient(lower))
        hand.step(hand.a_steps, ahead)
        hand.check(case)
        assert engine.epoch == (t + 1) // 4


def test_a_level_that_waits_still_responds():
    """With every=2 a lower level is read at its look-ahead always, and moves every other step."""
    case = case_of(mlopt.OneStep(), lower={"every": 2})
    hand = Hand(case, 0.9)
    engine = case.engine()
    for t in range(6):
        engine.step()
        lower, upper = pair(t)
        ahead = hand.upper_gradient(upper, lower)
        if t % 2 == 0:
            hand.step(hand.w_steps, hand.lower_gradient(lower))
        hand.step(hand.a_steps, ahead)
        hand.check(case)


def test_look_aheads_are_not_clipped():
    case = case_of(mlopt.OneStep(), lower={"clip": 1e-3})
    free = case_of(mlopt.OneStep())
    one = case.engine().hypergradient(case.upper)[case.A][""]
    two = free.engine().hypergradient(free.upper)[free.A][""]
    assert torch.equal(one, two)


def test_memory_of_a_signal_moves_once_a_step():
    """Though an upper-first step computes the signal twice, and a hypergradient besides."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("mean", torch.zeros((), dtype=F64))

    memory = Mean()
    W = mlopt.Variable(mlp(1), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    calls = []

    @mlopt.problem(over=W, given=[A], data=TRAIN, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def fit(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.signal(given=[W], data=VALID, state=memory)
    def size(w, batch):
        calls.append(1)
        memory.count += 1
        value = w(batch[0]).square().mean()
        memory.mean = 0.5 * memory.mean + 0.5 * value.detach()
        return value / (1 + memory.mean)

    @mlopt.problem(over=A, given=[size], optimizer=sgd(A))
    def tune(a, size):
        return size + a.square().sum()

    engine = mlopt.Engine([fit, size, tune], schedule=mlopt.UpperFirst())
    expected = 0.0
    for n in range(1, 5):
        with torch.no_grad():  # the memory's own, at the look-ahead that the signal sees
            before = memory.mean.clone()
        gradient = engine.hypergradient(tune)[A][""]
        assert torch.equal(memory.mean, before)
        assert gradient.abs().max() > 0
        engine.step()
        assert memory.count.item() == n
        assert memory.mean.item() != expected
        expected = memory.mean.item()
    assert len(calls) > 4

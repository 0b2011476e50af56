"""Law 1: an evaluation depends on its point alone; the same bits whatever was evaluated before."""

from __future__ import annotations

import copy

import pytest
import torch
from compare import exact, kills, near, rounding
from small import F64, assert_same, batches, bilevel, mlp, seeded, sgd, state_of
from torch import nn
from torch.nn.functional import dropout, mse_loss
from torch.nn.utils.parametrizations import spectral_norm

import mlopt

P = 0.1
#: A network of 40 operations, its derivative, and a difference of radius 0.01.
ROUNDING = rounding(4 * 40, condition=2) / 0.01


class Noisy(nn.Module):
    """Dropout, batch norm and spectral norm; the mask of the dropout can be written in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Linear(3, 8))
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 1)

    def forward(self, x, mask=None):
        h = torch.tanh(self.norm(self.first(x)))
        h = dropout(h, P, self.training) if mask is None else h * mask
        return self.last(h)


def graph(net, *, masks=None, optimizer=sgd, train, valid):
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64)), "a")
    masks = masks or {}
    method = mlopt.OneStep(product=mlopt.Central())

    @mlopt.problem(over=W, given=[A], data=train, optimizer=optimizer(W), hypergrad=method)
    def fit(w, a, batch):
        x, y = batch
        return mse_loss(w(x * a.exp(), masks.get("fit")), y)

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=sgd(A, 0.5))
    def tune(a, w, batch):
        x, y = batch
        return mse_loss(w(x, masks.get("tune")), y) + a.square().sum()

    return W, A, fit, tune


def drawn_mask(seed: int, size: int) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dropout(torch.ones(size, 8, dtype=F64), P, True)


@pytest.fixture
def noisy():
    return seeded(3, Noisy)


def test_central_equals_the_network_with_its_masks_written_in(noisy):
    train, valid = batches(4, size=20, seed=1), batches(4, size=20, seed=2)
    twin = copy.deepcopy(noisy)
    *_, fit, tune = graph(noisy, train=train, valid=valid)
    engine = mlopt.Engine([fit, tune])
    (drawn,) = engine.hypergradient(tune).values()
    masks = {n.name: drawn_mask(engine.seed_of(n), 20) for n in (fit, tune)}
    assert not torch.equal(masks["fit"], masks["tune"])
    assert all(0 < (mask == 0).sum() < 40 for mask in masks.values())
    *_, fit2, tune2 = graph(twin, masks=masks, train=train, valid=valid)
    (written,) = mlopt.Engine([fit2, tune2]).hypergradient(tune2).values()
    kills(2 * written[""], written[""], ROUNDING)
    exact(drawn, written, ROUNDING)


def test_central_equals_differences_of_copied_networks(noisy):
    """Every evaluation by hand on a deep copy of the network as it stood: weights and buffers."""
    train, valid = batches(4, seed=1), batches(4, seed=2)
    W, A, fit, tune = graph(noisy, train=train, valid=valid)
    engine = mlopt.Engine([fit, tune])
    (found,) = engine.hypergradient(tune).values()

    def evaluate(moved, node, by):
        net = copy.deepcopy(noisy)
        a = A.value.detach().clone().requires_grad_()
        with torch.no_grad():
            for p, value in zip(net.parameters(), moved, strict=True):
                p.copy_(value)
        with torch.random.fork_rng():
            torch.manual_seed(engine.seed_of(node))
            arguments = (net, a, train[0]) if node is fit else (a, net, valid[0])
            loss = node.fn(*arguments)
        return torch.autograd.grad(loss, list(net.parameters()) if by == "w" else [a])

    w = [p.detach().clone() for p in W.parameters()]
    gradient = evaluate(w, fit, "w")
    ahead = [p - 0.1 * g for p, g in zip(w, gradient, strict=True)]
    u = [-0.1 * c for c in evaluate(ahead, tune, "w")]
    e = 0.01 / torch.cat([t.flatten() for t in u]).norm()
    plus, minus = (
        evaluate([p + s * e * t for p, t in zip(w, u, strict=True)], fit, "a")[0] for s in (1, -1)
    )
    expected = (plus - minus) / (2 * e) + evaluate(ahead, tune, "a")[0]
    exact(found[""], expected, ROUNDING)
    assert (plus - minus).abs().max() > 1e-6  # there is something to find


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_steps_equal_plain_steps_bit_for_bit(noisy, kind):
    """Weights, buffers and optimizer state, while the upper problem perturbs the network."""

    def optimizer(variable):
        p = variable.parameters()
        if kind == "SGD":
            return torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2)
        return torch.optim.Adam(p, lr=0.05)

    train, valid = batches(4, seed=1), batches(4, seed=2)
    plain = copy.deepcopy(noisy)
    W, A, fit, tune = graph(noisy, optimizer=optimizer, train=train, valid=valid)
    engine = mlopt.Engine([fit, tune], seed=7)
    stood = []
    for _ in range(6):
        stood.append(A.value.detach().clone())
        engine.step()
    assert not torch.equal(stood[0], stood[-1])
    alone = optimizer(mlopt.Variable(plain, "w"))
    with torch.random.fork_rng():
        for t, a in enumerate(stood):
            torch.manual_seed(engine.seed_of(fit, step=t))
            x, y = train[t % 4]
            loss = mse_loss(plain(x * a.exp()), y)
            alone.zero_grad()
            loss.backward()
            alone.step()
    assert_same(dict(noisy.state_dict()), dict(plain.state_dict()))
    assert_same(fit.optimizer.state_dict()["state"], alone.state_dict()["state"])
    assert noisy.norm.num_batches_tracked.item() == 6


def test_signals_and_readers_leave_no_trace_in_buffers():
    """D5: batch norm counts one batch a step, though four evaluations run the network."""
    net = seeded(1, lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    W = mlopt.Variable(net, "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    data = batches(3)

    @mlopt.problem(over=W, given=[A], data=data, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def fit(w, a, batch):
        x, y = batch
        return mse_loss(w(x * a.exp()), y)

    @mlopt.signal(given=[W], data=data)
    def guess(w, batch):
        return w(batch[0])

    @mlopt.problem(over=A, given=[W, guess], data=data, optimizer=sgd(A))
    def tune(a, w, guess, batch):
        return (w(batch[0]) * guess).mean() + a.square().sum()

    engine = mlopt.Engine([fit, guess, tune])
    for n in range(1, 4):
        engine.step()
        engine.hypergradient(tune)
        assert net[1].num_batches_tracked.item() == n


@pytest.mark.parametrize("product", [mlopt.Exact(), mlopt.Central(), mlopt.OneSided()])
def test_hypergradient_twice_gives_the_same_bits_and_changes_nothing(noisy, product):
    train, valid = batches(4, seed=1), batches(4, seed=2)
    seen: list = []
    case = bilevel(
        nn.Sequential(noisy, nn.Dropout(0.3)),
        optimizer=lambda v: torch.optim.Adam(v.parameters(), lr=0.01),
        hypergrad=mlopt.OneStep(product=product),
        train=train,
        valid=valid,
        seen=seen,
    )
    engine = case.engine()
    for _ in range(3):
        engine.step()
    case.A.value.grad = torch.full((3,), 5.0, dtype=F64)
    before = state_of(engine)
    first = engine.hypergradient(case.upper)
    second = engine.hypergradient(case.upper)
    assert_same(list(first.values()), list(second.values()))
    assert_same(before, state_of(engine))
    assert first[case.A][""].abs().max() > 0
    read = dict(seen[-4:])
    seen.clear()
    engine.step()
    assert {name for name, _ in seen} == {"fit", "tune"}
    assert all(batch[0] is read[name][0] for name, batch in seen)
    assert all(batch[0] is {"fit": train, "tune": valid}[name][3][0] for name, batch in seen)
    # the step's own gradient is the hypergradient that was asked for
    assert_same(case.A.value.grad, first[case.A][""])


def test_hypergradient_before_the_first_step_does_not_change_the_run():
    def run(ask: bool):
        case = bilevel(nn.Sequential(mlp(), nn.Dropout(0.2)))
        engine = case.engine(seed=3)
        for _ in range(7):
            if ask:
                engine.hypergradient(case.upper)
                engine.hypergradient(case.lower)
            engine.step()
        return state_of(engine)

    assert_same(run(ask=False), run(ask=True))


def test_a_step_leaves_global_generators_and_other_gradients_alone():
    case = bilevel(nn.Sequential(mlp(), nn.Dropout(0.5)), upper_optimizer=None)
    case.A.value.grad = held = torch.full((3,), 5.0, dtype=F64)
    engine = case.engine()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    for _ in range(3):
        engine.step()
    assert torch.equal(torch.get_rng_state(), before)
    assert case.A.value.grad is held
    assert torch.equal(held, torch.full((3,), 5.0, dtype=F64))


def test_engine_seed_decides_the_draws():
    def weights(seed):
        case = bilevel(nn.Sequential(mlp(), nn.Dropout(0.5)))
        engine = case.engine(seed=seed)
        engine.step()
        return case.W.parameters()

    assert_same(weights(0), weights(0))
    assert not torch.equal(weights(0)[0], weights(1)[0])


def test_seeds_differ_by_node_step_and_inner_step():
    case = bilevel()
    engine = case.engine()
    seeds = {
        engine.seed_of(node, inner, step=step)
        for node in (case.lower, case.upper)
        for inner in range(3)
        for step in range(3)
    }
    assert len(seeds) == 18
    assert engine.seed_of(case.lower) == engine.seed_of(case.lower, 0, step=0)
    engine.step()
    assert engine.seed_of(case.lower) == engine.seed_of(case.lower, 0, step=1)


class Counting(nn.Module):
    """Assigns its buffer anew instead of writing it, and lets another one grow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("x", torch.zeros(()))
        self.register_buffer("log", torch.zeros(0))

    def forward(self, x):
        self.x = self.x + 1
        self.log = torch.cat([self.log, x.detach().mean().float()[None]])
        return self.linear(x)


def test_buffers_that_are_assigned_anew_move_once_a_step():
    net = seeded(1, Counting)
    case = bilevel(net)
    engine = case.engine()
    for n in range(1, 5):
        engine.hypergradient(case.upper)
        engine.step()
        assert net.x.item() == n
        assert len(net.log) == n


def test_recurrent_networks_are_evaluated_at_the_point():
    """nn.LSTM keeps a second list of its weights; it must follow the swap, there and back."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(1, 4, batch_first=True)
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            return self.last(self.lstm(x[..., None])[0][:, -1])

    net = seeded(2, Recurrent)
    case = bilevel(net)
    engine = case.engine()
    central = engine.hypergradient(case.upper)[case.A][""]
    exact = bilevel(copy.deepcopy(net), hypergrad=mlopt.OneStep())
    expected = exact.engine().hypergradient(exact.upper)[exact.A][""]
    near(central, expected, 6 * 0.01**2 / 6, why="radius^2 / 6 of the third derivative")
    plain = copy.deepcopy(net)
    engine.step()
    x, y = case.train[0]
    a = torch.tensor([0.1, -0.2, 0.3], dtype=F64)
    mse_loss(plain(x * a.exp()), y).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    assert_same(dict(net.state_dict()), dict(plain.state_dict()))
    assert_same(net(x), plain(x))

"""Law: buffers move on once a step as those of one plain evaluation do, however they lie."""

from __future__ import annotations

import copy

import pytest
import torch
from small import F64, sgd
from torch import nn

import mlopt

DATA = [
    torch.tensor([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.25]], dtype=F64) + 0.5 * k for k in range(3)
]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=F64))


class Counter(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.register_buffer("n", n)


class Shared(Base):
    """One tensor in two places; what is written in one is read in the other."""

    def __init__(self):
        super().__init__()
        n = torch.zeros(1, dtype=F64)
        self.a, self.z = Counter(n), Counter(n)

    def forward(self, x):
        self.a.n.add_(1)
        return x @ self.w * (1 + self.z.n)


class Views(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("all", torch.zeros(2, dtype=F64))
        self.register_buffer("first", self.all[:1])

    def forward(self, x):
        self.all += 1
        return x @ self.w * (1 + self.first)


class Parted(Views):
    """Views at first; one of them is assigned anew, and then they are none."""

    def forward(self, x):
        self.all = self.all + 1
        return x @ self.w * (1 + self.first + self.all[0])


class Late(Base):
    """A buffer that has no value before the first evaluation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def forward(self, x):
        now = x.mean(0)
        self.mean = now if self.mean is None else 0.5 * self.mean + 0.5 * now
        return (x - self.mean) @ self.w


class Expanded(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.arange(1.0, dtype=F64).expand(3))

    def forward(self, x):
        return x @ self.w + self.n


class ExpandedAnew(Expanded):
    def forward(self, x):
        self.n = self.n + 1
        return super().forward(x)


class Growing(Base):
    """One buffer grows, and another is written in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, dtype=F64))
        self.register_buffer("n", torch.zeros(1, dtype=F64))

    def forward(self, x):
        self.seen = torch.cat([self.seen, x[:, 0].mean()[None]])
        self.n.add_(1)
        return x @ self.w * (1 + self.n) + self.seen.sum()


class Emptied(Growing):
    """A buffer that is given up after the first evaluation."""

    def forward(self, x):
        self.seen = None
        self.n.add_(1)
        return x @ self.w * (1 + self.n)


MODULES = [Shared, Views, Parted, Late, Expanded, ExpandedAnew, Growing, Emptied]
METHODS = {
    "exact": mlopt.OneStep(),
    "differences": mlopt.OneStep(product=mlopt.Central()),
    "unrolled": mlopt.Unrolled(steps=1),
}


def engine_of(net, method, data=None):
    W = mlopt.Variable(net, "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros(1, dtype=F64)), "r")
    data = data or DATA

    @mlopt.problem(over=W, given=[R], data=data, optimizer=sgd(W, 0.0), hypergrad=method)
    def low(w, r, x):
        return (w(x) - 1).square().mean() * r.exp().sum()

    @mlopt.problem(over=R, given=[W], data=data, optimizer=sgd(R, 0.0))
    def top(r, w, x):
        return w(x).square().mean() + r.square().sum()

    return mlopt.Engine([low, top])


def buffers_of(net):
    return {name: b.clone() for name, b in net.named_buffers(remove_duplicate=False)}


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected), (found, expected)


@pytest.mark.parametrize("copy_first", [False, True], ids=["made", "copied"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("module", MODULES)
def test_buffers_move_on_once_a_step(module, method, copy_first):
    net, plain = module(), module()
    if copy_first:  # tensors of a copy share memory, and are no views of one another
        net = copy.deepcopy(net)
    engine = engine_of(net, METHODS[method])
    for x in DATA:
        loss = engine.step()["low/loss"]
        expected = (plain(x) - 1).square().mean()
        assert torch.equal(loss, expected), (loss, expected)
        assert_alike(buffers_of(net), buffers_of(plain))


@pytest.mark.parametrize("module", MODULES)
def test_a_step_that_fails_leaves_them(module):
    net = module()
    bad = torch.full((3, 2), torch.nan, dtype=F64)
    engine = engine_of(net, mlopt.OneStep(), [DATA[0], bad])
    engine.step()
    before, held = buffers_of(net), dict(net.named_buffers(remove_duplicate=False))
    with pytest.raises(mlopt.NonFiniteError):
        engine.step()
    assert_alike(buffers_of(net), before)
    now = dict(net.named_buffers(remove_duplicate=False))
    assert all(now[k] is held[k] for k in held)


def test_tensors_that_are_shared_stay_themselves():
    net = Shared()
    n = net.a.n
    engine = engine_of(net, mlopt.OneStep())
    engine.step()
    assert net.a.n is n
    assert net.z.n is n
    assert n.item() == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_buffer_of_two_variables_is_written_by_none(training):
    norm = nn.BatchNorm1d(2, affine=False).to(F64)
    nets = [nn.Sequential(norm, nn.Linear(2, 1, dtype=F64)) for _ in range(2)]
    norm.train(training)
    held = [mlopt.Variable(net, name) for net, name in zip(nets, "ab", strict=True)]
    fits = [
        mlopt.problem(over=v, data=DATA, optimizer=sgd(v, 0.1), name=f"fit_{v.name}")(
            lambda w, x: w(x).square().mean()
        )
        for v in held
    ]
    engine = mlopt.Engine(fits)
    if training:
        with pytest.raises(mlopt.GraphError, match=r"buffer 0\.running_mean of a.*one of b"):
            engine.step()
        assert norm.num_batches_tracked.item() == 0
    else:
        engine.step()

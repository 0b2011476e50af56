"""A point lasts until its last backward: what a module computes again there, it computes there."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from compare import exact, rounding
from grids import thinned
from small import F64, seeded, sgd
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

import mlopt
from mlopt import GraphError

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)
Y = X.sum(1, keepdim=True).sin()

METHODS = {
    "exact": mlopt.OneStep(lr=0.5),
    "central": mlopt.OneStep(lr=0.5, product=mlopt.Central()),
    "one-sided": mlopt.OneStep(lr=0.5, product=mlopt.OneSided()),
    "sama": mlopt.Sama(),
    "unrolled": mlopt.Unrolled(3),
    "recomputed": mlopt.Unrolled(3, recompute=True),
    "implicit": mlopt.Implicit(mlopt.CG(max_steps=3), damping=1.0),
}


def _scale(g: Tensor, weight: Tensor) -> Tensor:
    return g * torch.linalg.vector_norm(weight)


@cache
def scaled() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have it compiled
        return torch.jit.script(_scale)


class Again(torch.autograd.Function):
    """A module called in forward, and once more in backward: what reversible networks do."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.module, ctx.count = module, len(parameters)
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            parameters = list(ctx.module.parameters())
            found = torch.autograd.grad(ctx.module(x), [x, *parameters], cotangent)
        return None, *found


class Net(nn.Module):
    """A network whose middle is computed again in backward passes, or not."""

    def __init__(self, again: str, norm: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        middle: list[nn.Module] = [nn.Linear(4, 4)]
        if norm == "batch":
            middle.append(nn.BatchNorm1d(4))
        elif norm == "spectral":
            middle[0] = spectral_norm(middle[0])
        elif norm == "dropout":
            middle.append(nn.Dropout(0.3))
        self.middle = nn.Sequential(*middle, nn.Tanh())
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        if self.again == "checkpoint":
            h = checkpoint(self.middle, h, use_reentrant=False)
        elif self.again == "function":
            h = Again.apply(self.middle, h, *self.middle.parameters())
        else:
            h = self.middle(h)
        if self.again == "hook":
            h.register_hook(lambda g: g * self._length())
        elif self.again == "operation's hook":  # which is no function of torch's, as calls go
            h.grad_fn.register_prehook(lambda g: (g[0] * self._length(),))
        elif self.again == "a script's":  # of which nothing can be seen
            h.grad_fn.register_prehook(lambda g: (scaled()(g[0], self.middle[0].weight),))
        return self.last(h)

    def _length(self) -> Tensor:
        return torch.linalg.vector_norm(self.middle[0].weight)


def two_levels(net: nn.Module, method: Any) -> tuple[mlopt.Engine, mlopt.Variable]:
    weights = nn.Parameter(torch.zeros(8, 1, dtype=F64))
    W, R = mlopt.Variable(net, "w"), mlopt.Variable(weights, "r")

    @mlopt.problem(over=W, given=[R], optimizer=sgd(W, 0.5))
    def low(w, r):
        return (r.sigmoid() * (w(X) - Y) ** 2).mean()

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R, 1.0))
    def up(r, w):
        return ((w(X) - 2 * Y) ** 2).mean()

    return mlopt.Engine([low, up], hypergrad=method), R


@cache
def found(again: str, norm: str, method: str) -> list[Tensor]:
    """A hypergradient, and all that three steps make of the network."""
    net = seeded(4, lambda: Net(again, norm))
    engine, R = two_levels(net, METHODS[method])
    gradient = engine.hypergradient(engine.graph.problems[1])[R][""].clone()
    engine.run(steps=3, progress=False)
    return [gradient, *(t.detach() for t in (*net.parameters(), *net.buffers()))]


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # of three steps of CG
@pytest.mark.parametrize(
    ("method", "norm"), thinned(2, METHODS, ["none", "batch", "spectral", "dropout"])
)
def test_checkpointed_is_as_if_it_were_not(method: str, norm: str) -> None:
    """The same operations in the same order: the same bits, buffers that count among them."""
    for a, b in zip(found("checkpoint", norm, method), found("no", norm, method), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", ["central", "one-sided", "sama"])
def test_a_function_that_calls_its_module_again(method: str) -> None:
    for a, b in zip(found("function", "none", method), found("no", "none", method), strict=True):
        exact(a, b, rounding(2000, condition=50))  # differences divide by a radius of 0.01


def three_levels(again: str, method: Any) -> mlopt.Engine:
    """The middle one steers the lowest, so that points are nested in each other."""
    net = seeded(4, lambda: Net(again, "spectral"))
    B, A = (nn.Parameter(torch.full((1,), v, dtype=F64)) for v in (0.3, 0.7))
    W, V, U = mlopt.Variable(net, "w"), mlopt.Variable(B, "b"), mlopt.Variable(A, "a")

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W, 0.3))
    def low(w, b):
        return ((w(X) - b * Y) ** 2).mean()

    @mlopt.problem(over=V, given=[W, U], optimizer=sgd(V, 0.3))
    def middle(b, w, a):
        return ((w(X) * a - Y) ** 2).mean() + (b**2).sum()

    @mlopt.problem(over=U, given=[V, W], optimizer=sgd(U, 0.3))
    def top(a, b, w):
        return (b * w(X)).mean() + (a**2).sum()

    return mlopt.Engine([low, middle, top], hypergrad=method)


@pytest.mark.parametrize("method", ["central", "unrolled"])
def test_points_inside_of_points(method: str) -> None:
    results = []
    for again in ("no", "checkpoint"):
        engine = three_levels(again, METHODS[method])
        found = [engine.hypergradient(p) for p in engine.graph.problems]
        results.append([t for g in found for tensors in g.values() for t in tensors.values()])
    for plain, other in zip(*results, strict=True):
        assert torch.equal(plain, other)


def test_reentrant_checkpoints_are_refused_with_what_to_do() -> None:
    class Old(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.middle, self.first(x), use_reentrant=True))

    net = seeded(4, lambda: Old("", "none"))
    before = [p.detach().clone() for p in net.parameters()]
    engine, _ = two_levels(net, mlopt.Frozen())
    with pytest.raises(GraphError, match="low: its gradient cannot be taken.*use_reentrant=False"):
        engine.step()
    assert all(map(torch.equal, before, net.parameters()))


def test_modules_hold_their_own_tensors_after_a_backward_that_fails() -> None:
    net = seeded(4, lambda: Net("checkpoint", "none"))
    held = list(net.parameters())
    engine, _ = two_levels(net, METHODS["central"])
    engine.step()
    calls = [0]

    class Broken(RuntimeError):
        pass

    def falls(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:  # the first call is the forward one
            raise Broken

    handle = net.middle[0].register_forward_pre_hook(falls)
    with pytest.raises(Broken):
        engine.step()
    handle.remove()
    assert calls[0] == 2
    assert all(a is b for a, b in zip(held, net.parameters(), strict=True))


class WithNone(nn.Module):
    """A buffer that has no value yet, as of a norm without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("later", None)
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Offloaded(nn.Linear):
    """A layer of which other memory holds what its backward needs: nothing is computed again."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return super().forward(x).exp()


PLAIN = {
    "linear": lambda: nn.Linear(3, 1),
    "batch norm": lambda: nn.BatchNorm1d(3),
    "no statistics": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "no weights": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)),
    "none": WithNone,
    "offloaded": lambda: Offloaded(3, 1),
    "layer norm": lambda: nn.LayerNorm(3),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2)),
    "spectral norm": lambda: spectral_norm(nn.Linear(3, 3)),
    "attention": lambda: nn.TransformerEncoderLayer(3, 1, 8),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_computed_once_is_not_taken_for_more(name: str) -> None:
    """Else every operation of its backward passes would enter a point first, and no stack hold."""
    net = seeded(4, PLAIN[name])
    engine, _ = two_levels(net, mlopt.OneStep())
    engine.step()
    assert not engine._evaluator.recomputing


@pytest.mark.parametrize("method", ["exact", "unrolled"])
def test_a_hook_reads_the_point_wherever_it_hangs(method: str) -> None:
    one = found("hook", "none", method)
    for again in ("operation's hook", "a script's"):
        assert all(map(torch.equal, one, found(again, "none", method)))
    assert not torch.equal(one[0], found("", "none", method)[0])


@pytest.mark.filterwarnings("ignore::mlopt.CapabilityWarning")  # of differences with hooks
def test_what_is_computed_again_is_noticed() -> None:
    for again in ("checkpoint", "function", "hook", "operation's hook", "a script's"):
        engine, _ = two_levels(
            seeded(4, lambda again=again: Net(again, "batch")), METHODS["central"]
        )
        engine.step()
        assert set(engine.graph.problems) == engine._evaluator.recomputing

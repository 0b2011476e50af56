"""What one evaluation leaves to the next: said where it counts, refused where it is read."""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation.keeping import Layer, X, engine_of, fit, layer, plain, put
from small import F64, seeded
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import mlopt
from mlopt import CapabilityWarning, GraphError


def normed() -> nn.Module:
    return seeded(2, lambda: nn.BatchNorm1d(3))


def constant(hold: Callable[[nn.Module], Callable[[], Any]]) -> Callable[[], mlopt.Engine]:
    """A batch norm that is no variable's, which the lower objective comes by in some way."""

    def make() -> mlopt.Engine:
        found = hold(normed())
        return engine_of(low=lambda w, r: fit(w(found()(X)), r))

    return make


def average(own: Any, x: Tensor, out: Tensor) -> None:
    own.mean = 0.9 * own.mean + 0.1 * x.mean(0)


def of_method() -> mlopt.Engine:
    class Trainer:
        def __init__(self) -> None:
            self.norm = normed()

        def low(self, w, r):
            return fit(w(self.norm(X)), r)

    return engine_of(low=Trainer().low)


def of_default() -> mlopt.Engine:
    norm = normed()

    def low(w, r, *, norm=norm):
        return fit(w(norm(X)), r)

    return engine_of(low=lambda w, r, low=low: low(w, r))


def of_partial() -> mlopt.Engine:
    return engine_of(low=partial(lambda norm, w, r: fit(w(norm(X)), r), normed()))


COUNTED = {
    "a counter": (lambda: layer(lambda m, x, h: put(m, n=m.n + 1), n=0), "w.n"),
    "a flag that flips": (lambda: layer(lambda m, x, h: put(m, odd=not m.odd), odd=False), "w.odd"),
    "a mean": (lambda: layer(average, mean=torch.zeros(3, dtype=F64)), "w.mean"),
    "in place": (lambda: layer(lambda m, x, h: put(m, mean=m.mean.mul_(0.9).add_(x.mean(0))),
                               mean=torch.zeros(3, dtype=F64)), "w.mean"),
    "by .data": (lambda: layer(lambda m, x, h: put(m.mean, data=m.mean + 1),
                               mean=torch.zeros(3)), "w.mean"),
    "large, in place": (lambda: layer(lambda m, x, h: put(m, t=m.t.add_(1)),
                                      t=torch.zeros(2**16 + 1)), "w.t"),
    "an array": (lambda: layer(lambda m, x, h: m.sums.__iadd__(1) is None, sums=np.zeros(3)),
                 "w.sums"),
    "a list": (lambda: layer(lambda m, x, h: m.losses.append(0.0), losses=[]), "w.losses"),
    "a meter": (lambda: layer(lambda m, x, h: put(m.meter, count=m.meter.count + 1),
                              meter=SimpleNamespace(count=0)), "w.meter.count"),
    "in a dictionary": (lambda: layer(lambda m, x, h: m.seen.update(n=m.seen["n"] + 1),
                                      seen={"n": 0}), "w.seen['n']"),
    "a norm in a closure": (constant(lambda norm: lambda: norm), "norm.running_mean"),
    "in a list beside": (constant(lambda norm: lambda held=[norm]: held[0]), "running_mean"),
    "in an object": (constant(lambda norm: partial(getattr, SimpleNamespace(n=norm), "n")),
                     "n.running_mean"),
    "of a method": (of_method, "self.norm.running_mean"),
    "of a default": (of_default, "running_mean"),
    "of a partial": (of_partial, "running_mean"),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_what_counts_evaluations_is_said(name: str) -> None:
    make, called = COUNTED[name]
    engine = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.step()
    said = [str(w.message) for w in caught if w.category is CapabilityWarning]
    assert len(said) == len(caught)
    assert said[0].startswith("low: each evaluation changes")
    assert all(called in text and "buffer" in text for text in said)
    assert len(said) == len({text.split(":")[0] for text in said})  # each function once
    engine.step()


def memo(m: Any, x: Tensor) -> Tensor:
    m.c = m.weight.tanh() if m.c is None else m.c
    return x * m.c


def memo_inside(m: Any, x: Tensor) -> Tensor:
    return x * m.c.setdefault("c", m.weight.tanh())


def memo_in_a_closure() -> mlopt.Engine:
    known: dict[str, Tensor] = {}

    def low(w, r):
        if "out" not in known:
            known["out"] = w(X)
        return fit(known["out"] + w(X), r)

    return engine_of(low=low)


def memo_under_a_name() -> mlopt.Engine:
    known = None

    def low(w, r):
        nonlocal known
        known = w(X) if known is None else known
        return fit(known + w(X), r)

    return engine_of(low=low)


def memo_in_a_cache() -> mlopt.Engine:
    @functools.cache
    def product(net):
        return net.weight.tanh()

    return engine_of(low=lambda w, r: fit(w(X * product(w)), r))


def memo_of_a_signal() -> mlopt.Engine:
    known: list[Tensor] = []

    def sig(w):
        if not known:
            known.append(w(X))
        return known[0] + w(X)

    return engine_of(signal=sig)


def anothers(method: Any, and_more: Any = lambda w: 0.0) -> mlopt.Engine:
    """The lower objective leaves features, and the upper one takes them."""
    net = seeded(1, lambda: Layer(None, lambda m, x, h: put(m, h=h) or h))
    up = lambda r, w: (w.h**2).mean() + (r**2).sum() + and_more(w)  # noqa: E731
    return engine_of(net, up=up, hypergrad=method)


def pruned() -> Any:
    return seeded(1, lambda: prune.l1_unstructured(nn.Linear(3, 1), "weight", 1))


def before_its_call() -> mlopt.Engine:
    net = pruned().double()
    net(X)
    return engine_of(net, low=lambda w, r: (w.weight**2).sum() + plain(w, r))


def computed_outside() -> mlopt.Engine:
    net = seeded(1, Layer)
    out = net(X)
    return engine_of(net, low=lambda w, r: plain(w, r) + (out**2).mean())


READ = {
    "a memo": (lambda: engine_of(seeded(1, lambda: Layer(memo, c=None))), r"low reads w\.c,"),
    "in a dictionary": (lambda: engine_of(seeded(1, lambda: Layer(memo_inside, c={}))),
                        r"low reads w\.c\['c'\],"),
    "in a closure": (memo_in_a_closure, r"low reads known\['out'\],"),
    "under a name": (memo_under_a_name, "low reads known,"),
    "in a cache": (memo_in_a_cache, "low reads a tensor in a cache"),
    "of a signal": (memo_of_a_signal, r"sig reads known\[0\],"),
    "another's": (lambda: anothers(mlopt.OneStep(lr=0.3)), r"up reads w\.h,"),
    "another's, without a graph": (
        lambda: anothers(mlopt.Frozen(), lambda w: (w.weight**2).sum()), r"up reads w\.h,"),
    "before its call": (before_its_call, r"low reads w\.weight,"),
    "computed outside": (computed_outside, "low reads out,"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_another_evaluation_has_computed_is_refused(name: str) -> None:
    make, said = READ[name]
    engine = make()
    (w, r) = (v.value for v in engine.graph.variables)
    before = [t.clone() for t in (*w.parameters(), r)]
    for _ in range(2):  # refused for good
        with pytest.raises(GraphError, match=said):
            engine.step()
        assert all(map(torch.equal, before, (*w.parameters(), r)))
    assert getattr(w, "c", None) in (None, {}) or "c" in w.c


def positions(m: Any, x: Tensor) -> Tensor:
    if m.table is None:
        m.table = torch.arange(3, dtype=x.dtype).cos()
    return x + m.table


def scratch(m: Any, x: Tensor) -> Tensor:
    m.room[: x.numel()] = x.flatten()
    return m.room[: x.numel()].reshape(x.shape).clone()


def hooked() -> mlopt.Engine:
    seen: dict[str, Tensor] = {}
    net = seeded(1, Layer)
    net.register_forward_hook(lambda m, x, out: seen.update(out=out))

    def low(w, r):
        return plain(w, r) + 0.1 * (seen["out"] ** 2).mean()

    def up(r, w):
        return (w(X) ** 2).mean() + 0.1 * (seen["out"] ** 2).mean()

    return engine_of(net, low, up)


def own_list() -> mlopt.Engine:
    losses: list[float] = []

    def low(w, r):
        losses.append((loss := plain(w, r)).item())
        return loss

    return engine_of(low=low)


def constants_graph() -> mlopt.Engine:
    features = seeded(3, lambda: nn.Linear(3, 3))(X)  # with the graph of what nobody trains
    return engine_of(low=lambda w, r: fit(w(features), r))


def old_norm() -> mlopt.Engine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has newer ones
        return engine_of(seeded(1, lambda: nn.utils.weight_norm(nn.Linear(3, 1))))


LEGAL = {
    "features": lambda: layer(lambda m, x, h: put(m, last=h)),
    "features, read": lambda: layer(lambda m, x, h: (put(m, last=h), m.last * 1)[1]),
    "a list, filled anew": lambda: layer(lambda m, x, h: put(m, all=[h, h.tanh()])),
    "a number": lambda: layer(lambda m, x, h: put(m, last=h.mean().item())),
    "whether a gradient is wanted": lambda: layer(lambda m, x, h: put(m, g=h.requires_grad)),
    "a table of constants": lambda: engine_of(seeded(1, lambda: Layer(positions, table=None))),
    "a flag": lambda: layer(lambda m, x, h: put(m, ready=True), ready=False),
    "a full window": lambda: layer(lambda m, x, h: m.last.append(1.0),
                                   last=deque([1.0] * 3, maxlen=3)),
    "large scratch": lambda: engine_of(
        seeded(1, lambda: Layer(scratch, room=torch.zeros(2**16 + 1, dtype=F64)))),
    "a large array": lambda: layer(lambda m, x, h: put(m, first=m.all[0]), all=np.ones(2**17)),
    "pruned": lambda: engine_of(pruned()),
    "weight norm of old": old_norm,
    "spectral norm of old": lambda: engine_of(
        seeded(1, lambda: nn.utils.spectral_norm(nn.Linear(3, 1)))),
    "a norm of a variable": lambda: engine_of(
        seeded(1, lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))),
    "a norm in eval mode": constant(lambda norm: norm.eval),
    "a hook's dictionary": hooked,
    "a list of one's own": own_list,
    "the graph of a constant": constants_graph,
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_written_before_it_is_read_is_no_matter(name: str) -> None:
    engine = LEGAL[name]()
    for _ in range(2):
        engine.step()


def test_what_nobody_reads_stays_the_object_that_it_was() -> None:
    net = seeded(1, lambda: Layer(None, lambda m, x, h: put(m, n=m.n + 1) or h, n=0))
    net.kept = kept = net(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapabilityWarning)  # of the count, for which more is done
        engine_of(net).step()
    assert net.kept is kept


def test_a_cache_of_parametrized_weights_around_a_run_gives_none_of_another_evaluation() -> None:
    class Tanh(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.tanh()

    def trained(around: Any) -> Tensor:
        net = seeded(1, lambda: nn.Linear(3, 1))
        parametrize.register_parametrization(net, "weight", Tanh())
        engine = engine_of(net)
        with around:
            before = net.weight
            engine.run(steps=3, progress=False)
            engine.hypergradient(engine.graph.problems[1])
            assert not torch.equal(before, net.weight)
            assert torch.equal(net.weight, net.parametrizations.weight.original.tanh())
        return torch.stack(
            [engine.graph.variables[1].value.detach(), *net.weight.detach().flatten()]
        )

    assert torch.equal(trained(nullcontext()), trained(parametrize.cached()))

"""What is asked of sharded variables besides the law: memory, undo, optimizers, refusals."""

from __future__ import annotations

import contextlib
import signal
import warnings
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from compare import exact
from distributed.agreements import said
from distributed.here import Engine, here
from distributed.laws import same_bits, slice_of
from distributed.rank_graphs import GRAPHS, LAYERS, METHODS, batches, net
from distributed.sharded_laws import numbers, shard, sharding, whole
from small import F64
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import mlopt
from mlopt._evaluation.shardable import fsdp_modules
from mlopt._evaluation.sharded import _Part
from mlopt.distributed.ranks import Ranks
from mlopt.distributed.shards import Shard
from mlopt.distributed.spread import SpreadKeys


def plain(seed: int = 1) -> nn.Module:
    return net(seed, LAYERS["plain"])


def fit(
    module: nn.Module,
    optimizer: Callable[..., Any] = torch.optim.SGD,
    loss: Callable[..., Any] | None = None,
    **options: Any,
) -> mlopt.Engine:
    """One problem over a module."""
    W = mlopt.Variable(module, "w")

    def entropy(w: Any, batch: Any) -> Any:
        x, y = batch
        return cross_entropy(w(x), y)

    made = mlopt.problem(
        over=W, data=batches(3, slice_of), optimizer=optimizer(W.parameters(), lr=0.1), name="fit"
    )(loss or entropy)
    return Engine([made], **options)


def values(engine: mlopt.Engine) -> dict[str, Any]:
    (variable,) = engine.graph.variables
    return whole({k: p.detach().clone() for k, p in variable.named_parameters().items()})


def optimizers(names: list[str]) -> None:
    """Each steps rows as it steps the whole, and has its state as DTensors outside."""
    for name in names:
        kind = getattr(torch.optim, name)
        one, other = fit(plain(), kind), fit(shard(plain()), kind)
        for engine in (one, other):
            engine.step()
            engine.step()
        exact(values(other), values(one), 1e-12, what=name)
        made = other.graph.problems[0].optimizer
        held = made.param_groups[0]["params"]
        assert all(hasattr(p, "full_tensor") for p in held), name
        assert [*made.state] in ([], held), name
        for own in made.state.values():
            assert all(t.dim() == 0 or hasattr(t, "full_tensor") for t in own.values()), name


def computes() -> bool:
    """Whether this torch's own forward of sharded modules runs here."""
    try:
        shard(plain())(batches(3, slice_of)[0][0].to(here()))
    except AttributeError:  # as of torch 2.6 on the CPU, which has no streams there
        return False
    return True


def outside() -> None:
    """What a user does between steps is as `fully_shard` has it, before and after."""
    module = shard(plain(), reshard_after_forward=False)
    engine, alone = fit(module), fit(plain())
    x = batches(3, slice_of)[0][0].to(here())
    module(x).sum().backward()
    for _ in range(2):
        engine.step()
        alone.step()
        (there,) = alone.graph.variables
        exact(module(x), there.value(x), 1e-12, what="outside")
    for part in fsdp_modules(module):
        part.reshard()  # or what is written is fully_shard's own copy
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
        for p in there.parameters():
            p.mul_(2)
    engine.step()
    alone.step()
    exact(values(engine), values(alone), 1e-12, what="written")


def undone() -> None:
    """A step that is not finite on some rows leaves all as it was, on all ranks."""

    def loss(w: Any, batch: Any) -> Any:
        x, y = batch
        spoilt = torch.nan if engine.steps == 1 else 0.0
        return cross_entropy(w(x), y) + spoilt * w[0].weight[0].sum()

    engine = fit(shard(plain()), torch.optim.Adam, loss, skip_nonfinite=1)
    engine.step()
    before = values(engine), whole([*engine.graph.problems[0].optimizer.state.values()])
    engine.step()
    assert engine.skipped is not None
    after = values(engine), whole([*engine.graph.problems[0].optimizer.state.values()])
    same_bits(after, before, "undone")
    engine.step()
    assert engine.skipped is None


def overflow() -> None:
    """An update that overflows among one rank's rows is undone on all."""
    engine = fit(shard(plain()))
    w = engine.graph.variables[0].value[0].weight
    if dist.get_rank() == 1:
        with torch.no_grad():
            w.to_local().fill_(1e300)
    engine.graph.problems[0].optimizer.param_groups[0]["weight_decay"] = -1e10
    error = said(engine.step)
    assert "the update (" in error, error


def interrupted() -> None:
    """Ctrl-C while shards are put back in their places comes when all are."""
    engine = fit(shard(plain()))
    engine.step()
    leave, left = _Part.leave, list[int]()

    def leaves(part: Any) -> None:
        left.append(1)
        if len(left) == 2:
            signal.raise_signal(signal.SIGINT)
        leave(part)

    with patch.object(_Part, "leave", leaves), contextlib.suppress(KeyboardInterrupt):
        engine.step()
        raise AssertionError("nothing was raised")
    assert all(hasattr(p, "full_tensor") for v in engine.graph.variables for p in v.parameters())
    assert len(left) > 2
    engine.step()


def decision() -> int:
    """What ranks decide on the host goes by a group of gloo: NCCL takes no such tensors."""
    ranks = Ranks(dist.group.WORLD)
    with patch.object(ranks, "line_up", side_effect=AssertionError("by the group of devices")):
        return SpreadKeys({}, ranks).first(5 + dist.get_rank())


class Block(nn.Module):
    """A layer of which the middle is computed again going back."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).to(here(), F64)
        self.again = again

    def forward(self, x: Any) -> Any:
        return checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x)


def recomputed() -> None:
    """A layer that is computed again going back reads the same."""

    def net_of(again: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*[Block(again) for _ in range(3)])

    one, other = fit(net_of(False)), fit(shard(net_of(True)))
    for engine in (one, other):
        engine.step()
        engine.step()
    exact(values(other), values(one), 1e-12, what="recomputed")


def most_wholes(method: str, layers: int) -> int:
    """The most whole tensors that are there at a time, in steps with second derivatives."""
    torch.manual_seed(0)
    body = nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(3, 3), nn.Tanh())])
    W = mlopt.Variable(shard(body.to(here(), F64)), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64, device=here())), "a")
    data = batches(3, slice_of)

    def sgd(v: mlopt.Variable) -> Any:
        return torch.optim.SGD(v.parameters(), lr=0.1)

    @mlopt.problem(over=W, given=[A], data=data, optimizer=sgd(W), hypergrad=METHODS[method])
    def lower(w, a, batch):
        x, y = batch
        return cross_entropy(w(x * a.exp()), y)

    @mlopt.problem(over=A, given=[W], data=data, optimizer=sgd(A))
    def upper(a, w, batch):
        x, y = batch
        return cross_entropy(w(x), y)

    engine = Engine([lower, upper])
    alive: list[StorageWeakRef] = []
    most, gather = 0, Shard.gather

    def counted(self: Any, rows: Any) -> Any:
        nonlocal most
        found = gather(self, rows)
        alive[:] = [ref for ref in alive if not ref.expired()]
        alive.append(StorageWeakRef(found.untyped_storage()))
        most = max(most, len(alive))
        return found

    Shard.gather = counted  # type: ignore[method-assign]
    try:
        engine.step()
        engine.step()
    finally:
        Shard.gather = gather  # type: ignore[method-assign]
    return most


def other_order() -> str:
    """What is said where ranks read parameters of one shape in another order."""

    def loss(w: Any, batch: Any) -> Any:
        x, y = batch
        order = (0, 1) if dist.get_rank() == 0 else (1, 0)
        weights = {k: w[k].weight for k in order}
        return cross_entropy(x @ weights[0] @ weights[1] @ w[2].weight, y)

    layers = [nn.Linear(3, 3, bias=False).to(here(), F64) for _ in range(3)]
    return said(fit(shard(nn.Sequential(*layers)), loss=loss).step)


def freed() -> None:
    """What an evaluation has computed is gone after the step."""
    seen: list[weakref.ref[Any]] = []

    def loss(w: Any, batch: Any) -> Any:
        x, y = batch
        out = w[2](w[0](x)).tanh()
        seen.append(weakref.ref(out))
        return cross_entropy(w[3](out), y)

    engine = fit(shard(plain()), loss=loss)
    engine.step()
    engine.step()
    assert len(seen) > 2
    assert all(ref() is None for ref in seen)


def in_parts() -> None:
    """N ranks with m parts each are one process with N m parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        made, parts = GRAPHS["lfm-cw"], 2
        nodes = made(METHODS["exact"], lambda batch: batch, LAYERS["plain"])
        expected = numbers(Engine(nodes, parts=parts * dist.get_world_size(), ranks=False))
        with sharding():
            nodes = made(METHODS["exact"], slice_of, LAYERS["plain"])
        exact(numbers(Engine(nodes, parts=parts)), expected, 1e-12, what="parts")


def without_batches(stays: bool) -> None:
    """Functions that all ranks compute alike, of no batch or of the whole of one, read rows."""

    def engine_of(module: nn.Module, own: Any, **options: Any) -> mlopt.Engine:
        W = mlopt.Variable(module, "w")
        A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64, device=here())), "a")
        data = mlopt.Stream(batches(3, own))

        @mlopt.signal(given=[W])
        def size(w):
            return torch.stack([p.square().sum() for p in w.parameters()]).sum()

        @mlopt.problem(
            over=W, given=[A], data=data, hypergrad=mlopt.OneStep(), split=False,
            optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
        )  # fmt: skip
        def lower(w, a, batch):
            x, y = batch
            return cross_entropy(w(x * a.exp()), y)

        @mlopt.problem(over=A, given=[W, size], optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
        def upper(a, w, size):
            return size * a.exp().sum() + w(a[None]).square().sum()

        return Engine([lower, size, upper], **options)

    del stays
    expected = numbers(engine_of(plain(), lambda batch: batch, ranks=False))
    exact(numbers(engine_of(shard(plain()), slice_of)), expected, 1e-12, what="no batch")


def planned(graph: str, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a plan says of a step that goes between ranks, and what does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        with sharding():
            nodes = GRAPHS[graph](METHODS[method], slice_of, LAYERS["plain"])
        engine = Engine(nodes)
        engine.step()  # what is asked for once
        plan = engine.plan()
        before = engine.traffic
        engine.step()
    after = engine.traffic
    counted = {
        what: (count - before.get(what, (0, 0))[0], size - before.get(what, (0, 0))[1])
        for what, (count, size) in after.items()
    }
    return plan.traffic.per_purpose, {k: v for k, v in counted.items() if v != (0, 0)}

"""What is refused of sharded variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from distributed.agreements import said
from distributed.here import Engine, here
from distributed.laws import slice_of
from distributed.rank_graphs import GRAPHS, LAYERS
from distributed.sharded_cases import fit, plain
from distributed.sharded_laws import mesh, shard, sharding
from small import F64
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.nn.functional import cross_entropy

import mlopt


def refused(what: str) -> str:
    """The error of what is not served."""
    size = dist.get_world_size()
    return said(lambda: _REFUSED[what](size))


def _hybrid(size: int) -> Any:
    both = mesh(1, size, mesh_dim_names=("copies", "shards"))
    return fit(shard(plain(), mesh=both))


def _columns(size: int) -> Any:
    from torch.distributed.tensor import Shard as Placed

    module = nn.Sequential(nn.Linear(2 * size, 2 * size, bias=False, dtype=F64))
    return fit(shard(module, shard_placement_fn=lambda p: Placed(1)))


def _lone() -> Any:
    from torch.distributed.tensor import Shard as Placed
    from torch.distributed.tensor import distribute_tensor

    t = nn.Parameter(distribute_tensor(torch.zeros(4, dtype=F64), mesh(), [Placed(0)]))
    made = mlopt.problem(over=mlopt.Variable(t, "w"))(lambda w: w.sum())
    return Engine([made])


def _tied() -> Any:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(here(), F64)
    module[1].weight = module[0].weight
    return fit(shard_root(module))


def shard_root(module: nn.Module) -> nn.Module:
    return fully_shard(module, mesh=mesh())


def _hooked() -> Any:
    engine = fit(shard(plain()))
    engine.graph.problems[0].optimizer.register_step_pre_hook(lambda *_: None)
    return engine.step()


def _parameter_hook() -> Any:
    module = shard(plain())
    next(module.parameters()).register_hook(lambda g: g)
    return fit(module)


def _functional() -> Any:
    def loss(w: Any, batch: Any) -> Any:
        x, y = batch
        held = {k: p.detach() for k, p in w.named_parameters()}
        return cross_entropy(torch.func.functional_call(w, held, (x,)), y)

    return fit(shard(plain()), loss=loss).step()


def _torch_func() -> Any:
    def loss(w: Any, batch: Any) -> Any:
        x, y = batch
        return cross_entropy(w(x), y) + torch.func.grad(lambda t: t.square().sum())(x).sum()

    return fit(shard(plain()), loss=loss).step()


class _Own(mlopt.Frozen):
    """A method of a user's."""


def _own_method() -> Any:
    with sharding():
        nodes = GRAPHS["nested"](_Own(), slice_of, LAYERS["plain"])
    return Engine(nodes)


def _bome() -> Any:
    with sharding():
        nodes = GRAPHS["nested"](None, slice_of, LAYERS["plain"])
    return mlopt.penalty.bome(lower=nodes[0], upper=nodes[1], inner_steps=1, inner_lr=0.1)


def _empty(size: int) -> Any:
    W = mlopt.Variable(shard(plain()), "w")
    data = [torch.zeros(size - 1, 3, dtype=F64)]

    @mlopt.problem(
        over=W, data=mlopt.distributed.split(data),
        optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
    )  # fmt: skip
    def loss(w, x):
        return w(x).sum()

    return Engine([loss]).step()


def sharded_engine() -> mlopt.Engine:
    """An engine that is made in a module."""
    return fit(shard(plain()))


def _moved() -> Any:
    engine = fit(shard(plain()))
    engine.step()
    layer = engine.graph.variables[0].value[0]
    layer.bias = nn.Parameter(torch.zeros(4, dtype=F64, device=here()))
    return engine.step()


_REFUSED: dict[str, Callable[[int], Any]] = {
    "hybrid": _hybrid,
    "columns": _columns,
    "tensor": lambda _: _lone(),
    "no ranks": lambda _: fit(shard(plain()), ranks=False),
    "policy": lambda _: fit(
        shard(plain(), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    ),
    "output": lambda _: fit(
        shard(plain(), mp_policy=MixedPrecisionPolicy(output_dtype=torch.bfloat16))
    ),
    "offload": lambda _: fit(shard(plain(), offload_policy=CPUOffloadPolicy(pin_memory=False))),
    "tied": lambda _: _tied(),
    "optimizer": lambda _: fit(shard(plain()), torch.optim.Adafactor),
    "step hook": lambda _: _hooked(),
    "hook": lambda _: _parameter_hook(),
    "compile": lambda _: fit(shard(plain()), compile=True),
    "fp16": lambda _: fit(shard(plain()), precision="fp16"),
    "audit": lambda _: mlopt.audit(fit(shard(plain()))),
    "plan": lambda size: fit(shard(plain())).plan(ranks=size + 1),
    "functional": lambda _: _functional(),
    "torch.func": lambda _: _torch_func(),
    "verify": lambda _: mlopt.verify_resume(sharded_engine, steps=2, at=1),
    "method": lambda _: _own_method(),
    "penalty": lambda _: _bome(),
    "best": lambda _: fit(shard(plain())).run(
        steps=1, progress=False, callbacks=[mlopt.BestCheckpoint("nowhere", "fit/loss", of="log")]
    ),
    "empty": _empty,
    "moved": lambda _: _moved(),
}

"""Engines whose steps are asked how often they wait, each at a size that shows it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import lfm_cw_step
import sgl_graph
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt

__all__ = ["CASES", "Advance", "Case"]

#: A function that takes so many steps.
Advance = Callable[[int], object]

PRODUCTS = {"exact": mlopt.Exact(), "central": mlopt.Central(), "one-sided": mlopt.OneSided()}
SGL_SIZE = sgl_graph.Size(channels=1, cells=3, nodes=1, image=8, batch=4)
EPOCH = 1000  # batches: no step here ends one


@dataclass(frozen=True)
class Case:
    """Attributes:
    make: (device) -> what takes steps.
    law: how often each may wait; None for no law.
    law_on_the_cpu: whether the law holds there, too.
    """

    make: Callable[[str], Advance]
    law: int | None = 1
    law_on_the_cpu: bool = True


def steps(engine: mlopt.Engine) -> Advance:
    """One after the other, as a loop of the user's own takes them."""

    def advance(count: int) -> None:
        for _ in range(count):
            engine.step()

    return advance


def run(engine: mlopt.Engine, log_every: int) -> Advance:
    return lambda count: engine.run(steps=count, log_every=log_every, progress=False)


def two_levels(method: Any, device: str, *, on_the_host: bool = False) -> mlopt.Engine:
    """Weights under one decay for each of their tensors; SGD below, Adam above, both clipped."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 4)
    ).to(device)
    decays = nn.Parameter(torch.full((len(list(net.parameters())),), -4.0, device=device))
    W, R = mlopt.Variable(net, "w"), mlopt.Variable(decays, "r")

    def batches() -> list[Any]:
        batch = torch.randn(32, 8), torch.arange(32) % 4
        if not on_the_host:
            batch = tuple(t.to(device) for t in batch)
        elif device != "cpu":
            batch = tuple(t.pin_memory() for t in batch)
        return [batch] * EPOCH

    sgd = torch.optim.SGD(W.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    adam = torch.optim.Adam(R.parameters(), 0.01)

    @mlopt.problem(over=W, given=[R], data=batches(), optimizer=sgd, clip=1.0)
    def train(w: nn.Module, r: Tensor, batch: Any) -> Tensor:
        squares = torch.stack([p.square().sum() for p in w.parameters()])
        return cross_entropy(w(batch[0]), batch[1]) + (r.exp() * squares).sum()

    @mlopt.problem(over=R, given=[W], data=batches(), optimizer=adam, clip=1.0)
    def validation(r: Tensor, w: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(w(batch[0]), batch[1]) + 0.01 * r.square().sum()

    return mlopt.Engine([train, validation], hypergrad=method, device=device)


def lfm_cw(variant: str, device: str) -> Advance:
    return steps(lfm_cw_step.engine(lfm_cw_step.World.make("tiny", device), variant)[0])


def sgl(product: str, device: str, stacked: bool = False) -> Advance:
    world = sgl_graph.World.make(2, SGL_SIZE, device)
    return steps(sgl_graph.sgl_engine(world, product, stacked=stacked))


def one_step(product: str) -> mlopt.OneStep:
    return mlopt.OneStep(product=PRODUCTS[product])


CASES: dict[str, Case] = {
    "two levels, first order": Case(lambda device: steps(two_levels(mlopt.Frozen(), device))),
    **{
        f"two levels, {product}": Case(
            lambda device, product=product: steps(two_levels(one_step(product), device))
        )
        for product in PRODUCTS
    },
    "batches from the host": Case(
        lambda device: steps(two_levels(one_step("central"), device, on_the_host=True))
    ),
    "engine.run": Case(lambda device: run(two_levels(one_step("central"), device), EPOCH)),
    "engine.run, every step logged": Case(
        lambda device: run(two_levels(one_step("central"), device), 1), law=None
    ),
    **{
        f"LFM-CW, {variant}": Case(partial(lfm_cw, variant), law_on_the_cpu=False)
        for variant in lfm_cw_step.VARIANTS
    },
    **{f"SGL, {product}": Case(partial(sgl, product)) for product in sgl_graph.PRODUCTS},
    "SGL, central, stacked": Case(partial(sgl, "central", stacked=True)),
}

"""Whole networks with BatchNorm over all ranks, and where that is refused."""

from __future__ import annotations

from typing import Any

import torch
from compare import exact
from distributed.batch_norms import LAW, _synced, disturb, made, numbers, ranks
from distributed.here import Engine, here, seeded
from distributed.laws import slice_of
from distributed.rank_graphs import steps
from small import F64
from torch import nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt import GraphError, nas
from mlopt.distributed import sync_batch_norm
from mlopt.distributed.shared_sums import Together, together
from mlopt.generators import ConditionalBatchNorm


def in_parts(outside: bool) -> str:
    module = sync_batch_norm(nn.BatchNorm1d(3, track_running_stats=False)).double().to(here())
    how = (nn.BatchNorm1d, None, module) if outside else (_synced, None, None)
    try:
        Engine(made(slice_of, *how), parts=2).step()
    except GraphError as error:
        return str(error)
    return "nothing was raised"


# Networks of the library.


def supernets() -> None:
    """A step of DARTS on a supernet of `mlopt.nas`."""

    def engine(own: Any, change: Any, **options: Any) -> mlopt.Engine:
        generator = torch.Generator().manual_seed(81)
        x = torch.randn(6, 3, 8, 8, generator=generator, dtype=F64)
        y = torch.arange(6) % 2
        network = seeded(82, lambda: nas.Supernet(channels=2, layers=2, classes=2, nodes=1))
        W = mlopt.Variable(change(network), "w")
        A = mlopt.Variable(seeded(83, lambda: nas.Architecture(1)), "a")

        @mlopt.problem(
            over=W, given=[A], data=[own((x, y))], optimizer=steps(W), hypergrad=mlopt.OneStep()
        )
        def lower(w, a, batch):
            return cross_entropy(w(batch[0], a()), batch[1])

        @mlopt.problem(over=A, given=[W], data=[own((x.flip(0), y))], optimizer=steps(A))
        def upper(a, w, batch):
            return cross_entropy(w(batch[0], a()), batch[1])

        return Engine([lower, upper], **options)

    alone = engine(lambda b: b, lambda network: network, ranks=False)
    exact(numbers(engine(slice_of, sync_batch_norm)), numbers(alone), 1e-11, what="supernet")


def conditional() -> None:
    """BatchNorm with a gain for each class."""
    sums, rank = ranks()
    layer = seeded(91, lambda: ConditionalBatchNorm(2, classes=3))
    disturb(layer)
    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(92), dtype=F64).to(here())
    y = torch.arange(8).to(here()) % 3
    expected = layer(x, y).chunk(sums.ranks.size)[rank]
    with together(Together(sums)):
        found = sync_batch_norm(layer)(*slice_of((x, y)))
    exact(found.detach(), expected.detach(), LAW)

"""DARTS for the benchmarks: a supernet's weights below, its architecture above, fixed batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.nas import Architecture, Supernet

__all__ = ["PRODUCTS", "SIZES", "Darts", "Format"]

CLASSES, RADIUS = 10, 0.01
EPOCH = 1000  # steps: none that is measured ends one, which reads the mean losses besides
PRODUCTS: dict[str, Any] = {
    "first order": mlopt.Frozen(),
    "exact": mlopt.OneStep(product=mlopt.Exact()),
    "central": mlopt.OneStep(product=mlopt.Central(RADIUS)),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided(RADIUS)),
}


@dataclass(frozen=True)
class Size:
    """Of the supernet and of a batch."""

    channels: int
    layers: int
    nodes: int
    batch: int
    image: int


SIZES = {
    "darts": Size(16, 8, 4, 64, 32),
    "small": Size(8, 3, 2, 64, 16),
    "tiny": Size(4, 3, 1, 8, 8),
}


@dataclass(frozen=True)
class Format:
    """How a search computes: as --precision and --channels-last of the examples."""

    dtype: torch.dtype = torch.float32
    precision: str = "float32"
    channels_last: bool = False
    tf32: bool = True


class Darts:
    """Networks, batches and optimizers; equal sizes make equal values in every format."""

    def __init__(self, size: Size, device: str, form: Format = Format(), adam: bool = False):  # noqa: B008
        memory = torch.channels_last if form.channels_last else torch.contiguous_format
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a = Architecture(size.nodes).to(device, form.dtype)
            w = Supernet(size.channels, size.layers, CLASSES, size.nodes, 3)
            images = [torch.randn(size.batch, 3, size.image, size.image) for _ in "tv"]
            labels = [torch.randint(CLASSES, (size.batch,)) for _ in "tv"]
        self.w = w.to(device, form.dtype, memory_format=memory)
        self.batches: list[tuple[Tensor, Tensor]] = [
            (x.to(device, form.dtype, memory_format=memory), y.to(device))
            for x, y in zip(images, labels, strict=True)
        ]
        self.adam, self.precision = adam, cast(Any, form.precision)

    def engine(self, method: Any) -> tuple[mlopt.Engine, mlopt.Problem]:
        """The graph, and the problem of the architecture."""
        A, W = mlopt.Variable(self.a, "a"), mlopt.Variable(self.w, "w")
        train, valid = ([batch] * EPOCH for batch in self.batches)
        lower: torch.optim.Optimizer = torch.optim.SGD(W.parameters(), 0.025, momentum=0.9)
        if self.adam:
            lower = torch.optim.Adam(W.parameters(), 1e-3)
        upper = torch.optim.Adam(A.parameters(), 3e-4, (0.5, 0.999))

        @mlopt.problem(over=W, given=[A], data=train, optimizer=lower)
        def weights(w, a, batch):  # its outputs are marked for a Gauss-Newton curvature
            return cross_entropy(mlopt.outputs(w(batch[0], a())), batch[1])

        @mlopt.problem(over=A, given=[W], data=valid, optimizer=upper)
        def architecture(a, w, batch):
            return cross_entropy(w(batch[0], a()), batch[1])

        graph = [weights, architecture]
        return mlopt.Engine(graph, hypergrad=method, precision=self.precision), architecture

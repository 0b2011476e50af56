"""SGL for the benchmark: the networks and batches of K learners, and their graph in mlopt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.nas import Architecture, Supernet

__all__ = ["PRODUCTS", "Learner", "Size", "World", "sgl_engine"]

CLASSES = 10
EPOCH = 1000  # steps: none that is measured ends one, which reads the mean losses besides
LR, MOMENTUM, DECAY, CLIP, RADIUS, LAMBDA = 0.025, 0.9, 3e-4, 5.0, 0.01, 0.1
PRODUCTS = ("central", "one-sided", "first")


@dataclass(frozen=True)
class Size:
    """Of the networks and of the batches."""

    channels: int = 8
    cells: int = 5
    nodes: int = 4
    image: int = 16
    batch: int = 32
    in_channels: int = 3


@dataclass
class Learner:
    """A learner's architecture and two networks; a network is called as w(x, a())."""

    a: Architecture
    v: Supernet
    w: Supernet


@dataclass
class World:
    """The networks and batches of one contestant; equal seeds make equal worlds.

    Attributes:
        learners: each with initial values of its own.
        group: all architectures as one module, for who takes one module only.
        train: images and labels.
        valid: images and labels.
        unlabeled: images.
        optimizers: of ("v", k) and ("w", k) for each learner, and of "a".
    """

    learners: list[Learner]
    group: nn.ModuleList
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    unlabeled: Tensor
    optimizers: dict[Any, torch.optim.Optimizer] = field(default_factory=dict)

    @classmethod
    def make(
        cls, learners: int, size: Size, device: str, dtype: torch.dtype = torch.float32
    ) -> World:
        torch.manual_seed(0)

        def net() -> Supernet:
            made = Supernet(size.channels, size.cells, CLASSES, size.nodes, size.in_channels)
            return made.to(device, dtype)

        def images() -> Tensor:
            shape = (size.batch, size.in_channels, size.image, size.image)
            return torch.randn(shape, dtype=dtype).to(device)

        def labels() -> Tensor:
            return torch.randint(CLASSES, (size.batch,)).to(device)

        made = [
            Learner(Architecture(size.nodes).to(device, dtype), net(), net())
            for _ in range(learners)
        ]
        group = nn.ModuleList(learner.a for learner in made)
        optimizers: dict[Any, torch.optim.Optimizer] = {
            (name, k): torch.optim.SGD(
                getattr(learner, name).parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY
            )
            for k, learner in enumerate(made)
            for name in "vw"
        }
        optimizers["a"] = torch.optim.Adam(
            group.parameters(), 3e-4, (0.5, 0.999), weight_decay=1e-3
        )
        return cls(made, group, (images(), labels()), (images(), labels()), images(), optimizers)


def sgl_engine(
    world: World, product: str, *, stacked: bool = False, **options: Any
) -> mlopt.Engine:
    """The graph of `examples/sgl_darts.py` over fixed batches; a lone learner has no teachers.

    Args:
        world: what it is over.
        product: one of PRODUCTS.
        stacked: evaluate what all learners do alike as one.
        options: further options of the engine, for another way to run the same graph.

    Returns:
        The engine.
    """
    group, o = range(len(world.learners)), world.optimizers
    A = [mlopt.Variable(nets.a, f"a{k}") for k, nets in enumerate(world.learners)]
    V = [mlopt.Variable(nets.v, f"v{k}") for k, nets in enumerate(world.learners)]
    W = [mlopt.Variable(nets.w, f"w{k}") for k, nets in enumerate(world.learners)]
    train, valid, unlabeled = (
        mlopt.Stream([batch] * EPOCH) for batch in (world.train, world.valid, world.unlabeled)
    )

    def learns_alone(k: int) -> mlopt.Problem:
        @mlopt.problem(
            over=V[k], given=[A[k]], data=train, optimizer=o["v", k], clip=CLIP, name=f"stage1_{k}"
        )
        def stage1(v, a, batch):  # Eq. 1
            x, y = batch
            return cross_entropy(v(x, a()), y)

        return stage1

    def labels_others(k: int) -> mlopt.Signal:
        @mlopt.signal(given=[V[k], A[k]], data=unlabeled, name=f"pseudo_labels_{k}")
        def pseudo_labels(v, a, u):
            return v(u, a()).softmax(-1)

        return pseudo_labels

    def learns_from_others(k: int, teachers: list[mlopt.Signal]) -> mlopt.Problem:
        @mlopt.problem(
            over=W[k],
            given=[A[k], teachers] if teachers else [A[k]],
            data=(train, unlabeled),
            optimizer=o["w", k],
            clip=CLIP,
            name=f"stage2_{k}",
        )
        def stage2(w, a, *rest):  # Eq. 2
            *teachers, ((x, y), u) = rest
            weights = a()
            loss = cross_entropy(w(x, weights), y)
            if not teachers:
                return loss
            answers = w(u, weights)
            return loss + LAMBDA * sum(cross_entropy(answers, labels) for labels in teachers[0])

        return stage2

    alone = [learns_alone(k) for k in group]
    labels = [labels_others(k) for k in group] if len(group) > 1 else []
    taught = [learns_from_others(k, [t for t in labels if t is not labels[k]]) for k in group]

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=o["a"])
    def stage3(a, w, batch):  # Eq. 3
        x, y = batch
        return sum(cross_entropy(w[k](x, a[k]()), y) for k in group)

    if product == "first":
        options = {"hypergrad": mlopt.Frozen(), "schedule": mlopt.Sequential(), **options}
    else:
        rule = {"central": mlopt.Central, "one-sided": mlopt.OneSided}[product](RADIUS)
        options = {"hypergrad": mlopt.OneStep(product=rule), **options}
    levels: list[list[Any]] = [alone, labels, taught]
    if stacked and len(group) > 1:
        levels = [[mlopt.Stack(level)] for level in levels]
    return mlopt.Engine([node for level in levels for node in level] + [stage3], **options)

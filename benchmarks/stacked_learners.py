"""K learners as one batched evaluation against the same K learners one by one.

Each learner is a problem of two levels: a network's weights, given a few numbers that an upper
problem chooses on other data (for the supernet, its architecture). Both engines run on the same
networks and batches; before timing, their first gradients are compared in float64.

    python benchmarks/stacked_learners.py --pairs 15
    python benchmarks/stacked_learners.py --device cuda --learners 2 8 32 --sizes supernet

Steps are taken in pairs, in alternating order: a ratio holds on a noisy machine, a time does not.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from header import header
from timing import seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.nas import Architecture, Supernet
from mlopt.report import format_table

CLASSES = 10
PRODUCTS = {"exact": mlopt.Exact(), "central": mlopt.Central(), "one-sided": mlopt.OneSided()}


class Perceptron(nn.Module):
    """Two hidden layers; `a` weighs the features."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.layers(x * a.exp())


class Convolutions(nn.Module):
    """Two convolutions with batch norm; `a` weighs the channels of the last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        return self.last(self.layers(x).mean((2, 3)) * a.exp())


class Weights(nn.Module):
    """What an upper problem chooses: as many numbers as the network takes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(size))

    def forward(self) -> Tensor:
        return self.numbers


# name: (network, what it is given, shape of an image, images in a batch)
SIZES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp 16": (lambda: Perceptron(8, 16), lambda: Weights(8), (8,), 32),
    "mlp 64": (lambda: Perceptron(32, 64), lambda: Weights(32), (32,), 64),
    "mlp 256": (lambda: Perceptron(64, 256), lambda: Weights(64), (64,), 128),
    "conv 8": (lambda: Convolutions(8), lambda: Weights(8), (3, 8, 8), 16),
    "supernet": (lambda: Supernet(4, 3, CLASSES, 2, 3), lambda: Architecture(2), (3, 8, 8), 16),
    "supernet c8": (lambda: Supernet(8, 3, CLASSES, 2, 3), lambda: Architecture(2), (3, 8, 8), 16),
}


def engine(
    size: str,
    learners: int,
    stacked: bool,
    product: str,
    device: str,
    dtype: torch.dtype = torch.float32,
) -> mlopt.Engine:
    """The learners; equal arguments but `stacked` make equal networks and batches."""
    network, given, shape, count = SIZES[size]
    lowers: list[mlopt.Problem] = []
    uppers: list[mlopt.Problem] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for k in range(learners):
            W = mlopt.Variable(network().to(device, dtype), f"w{k}")
            A = mlopt.Variable(given().to(device, dtype), f"a{k}")
            x = torch.randn(2, count, *shape).to(device, dtype)
            y = torch.randint(CLASSES, (2, count)).to(device)

            @mlopt.problem(
                over=W, given=[A], data=[(x[0], y[0])],
                optimizer=torch.optim.SGD(W.parameters(), 0.025, momentum=0.9),
            )  # fmt: skip
            def train(w, a, batch):
                return cross_entropy(w(batch[0], a()), batch[1])

            @mlopt.problem(
                over=A, given=[W], data=[(x[1], y[1])],
                optimizer=torch.optim.Adam(A.parameters(), 3e-4),
            )  # fmt: skip
            def validate(a, w, batch):
                return cross_entropy(w(batch[0], a()), batch[1])

            lowers.append(train)
            uppers.append(validate)
    entries = [mlopt.Stack(lowers), mlopt.Stack(uppers)] if stacked else [*lowers, *uppers]
    return mlopt.Engine(entries, hypergrad=mlopt.OneStep(product=PRODUCTS[product]))


def difference(size: str, learners: int, product: str, device: str) -> float:
    """Relative difference of all gradients of the first step, in float64."""
    gradients = []
    for stacked in (True, False):
        made = engine(size, learners, stacked, product, device, torch.float64)
        made.step()
        tensors = [p for v in made.graph.variables for p in v.parameters()]
        gradients.append(torch.cat([p.grad.flatten() for p in tensors if p.grad is not None]))
    return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


def row(size: str, learners: int, product: str, device: str, pairs: int) -> dict[str, object]:
    """One line of the table."""
    engines = [engine(size, learners, stacked, product, device) for stacked in (True, False)]
    for made in [*engines, *engines]:
        made.step()
    times: list[tuple[float, float]] = []
    for i in range(pairs):
        order = (0, 1) if i % 2 else (1, 0)
        taken = {j: seconds(engines[j].step, device) for j in order}
        times.append((taken[0], taken[1]))
    stacked, alone = (statistics.median(t) for t in zip(*times, strict=True))
    ratios = sorted(a / b for a, b in times)
    low, _, high = statistics.quantiles(ratios, n=4) if pairs > 1 else ratios * 3
    return {
        "network": size,
        "learners": learners,
        "stacked ms": f"{stacked * 1e3:.1f}",
        "one by one ms": f"{alone * 1e3:.1f}",
        "stacked / one by one": f"{stacked / alone:.2f} [{low:.2f}, {high:.2f}]",
        "difference": f"{difference(size, learners, product, device):.0e}",
    }


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--learners", nargs="+", type=int, default=[2, 8, 32])
    parser.add_argument("--product", choices=PRODUCTS, default="central")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    rows = [
        row(size, learners, options.product, options.device, options.pairs)
        for size in options.sizes
        for learners in options.learners
    ]
    extra = (
        f"{options.pairs} pairs of steps, {options.product} product. Times: medians. Ratio: of the "
        "medians, and the quartiles of the pairs' ratios; below 1 the stack is faster. Difference: "
        "of all gradients of the first step, relative, in float64."
    )
    text = f"{header('Stacked learners', options.device, extra)}\n"
    text += f"{format_table(rows, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()

"""One LFM-CW step, three ways: mlopt, a loop written by hand, Betty 0.2.1.

All three run on the same supernets and batches. The hand-written loop does the same mathematics in
the same number of network passes, with parameters moved in place and a second copy of each network
that looks ahead; it neither replays randomness in the networks nor protects buffers, as such loops
do not.
Before timing, its architecture gradient is compared with mlopt's in float64.

    python benchmarks/lfm_cw_step.py --size quick --pairs 15
    python benchmarks/lfm_cw_step.py --size c8l5 --device cuda --output benchmarks/results/x.md

Times are taken in alternated rounds: a ratio holds on a noisy machine, a time does not. Betty is
left out with a message where it is not installed:
    pip install --ignore-requires-python --no-deps betty-ml==0.2.1
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from header import header
from lfm_cw_betty import betty_step
from lfm_cw_hand import HandLoop
from memory import peak_bytes
from timing import ratio, rounds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.generators import SharedDiscriminator, discriminator_loss, generator_loss
from mlopt.nas import Architecture, ClassLosses, Supernet, sums_per_class
from mlopt.report import format_table

SIZES = {
    "quick": {"channels": 4, "layers": 3, "nodes": 2, "in_channels": 1, "image": 8, "batch": 64},
    "c8l5": {"channels": 8, "layers": 5, "nodes": 4, "in_channels": 3, "image": 16, "batch": 32},
    "tiny": {"channels": 4, "layers": 3, "nodes": 1, "in_channels": 1, "image": 8, "batch": 8},
}
VARIANTS = ("first order", "one-sided", "central", "exact")
CLASSES, NOISE = 10, 32
EPOCH = 1000  # steps: none that is measured ends one, which reads the mean losses besides
LR, GAN_LR, MOMENTUM, DECAY, CLIP, RADIUS, LAMBDA = 0.025, 2e-4, 0.9, 3e-4, 5.0, 0.01, 1.0


class Generator(nn.Module):
    """Noise and a class to an image in [-1, 1], of any size that is a multiple of four."""

    def __init__(self, channels: int, image: int) -> None:
        super().__init__()
        self.side = image // 4
        self.embedding = nn.Embedding(CLASSES, 16)
        self.start = nn.Linear(NOISE + 16, 32 * self.side**2)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32), nn.ReLU(), nn.ConvTranspose2d(32, channels, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, y: Tensor) -> Tensor:
        z = torch.randn(len(y), NOISE, device=y.device, dtype=self.start.weight.dtype)
        h = self.start(torch.cat([z, self.embedding(y)], 1))
        return self.layers(h.view(len(y), 32, self.side, self.side))


@dataclass
class World:
    """The networks and batches of one contestant; equal seeds make equal worlds."""

    a: Architecture
    w1: Supernet
    w2: Supernet
    g: Generator
    h: SharedDiscriminator
    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    optimizers: dict[str, torch.optim.Optimizer]
    state: ClassLosses

    @classmethod
    def make(cls, size: str, device: str, dtype: torch.dtype = torch.float32) -> World:
        torch.manual_seed(0)
        c = SIZES[size]

        def net() -> Supernet:
            return Supernet(c["channels"], c["layers"], CLASSES, c["nodes"], c["in_channels"])

        nets = {
            "a": Architecture(c["nodes"]),
            "w1": net(),
            "w2": net(),
            "g": Generator(c["in_channels"], c["image"]),
            "h": SharedDiscriminator(net(), CLASSES),
        }
        for module in nets.values():
            module.to(device, dtype)

        def batch() -> tuple[Tensor, Tensor]:
            x = torch.randn(c["batch"], c["in_channels"], c["image"], c["image"], dtype=dtype)
            y = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (c["batch"],))])[
                : c["batch"]
            ]
            return x.to(device), y.to(device)

        def sgd(m: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(m.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)

        def adam(m: nn.Module, lr: float, decay: float = 0.0) -> torch.optim.Optimizer:
            return torch.optim.Adam(m.parameters(), lr, (0.5, 0.999), weight_decay=decay)

        optimizers = {"w1": sgd(nets["w1"]), "w2": sgd(nets["w2"]), "g": adam(nets["g"], GAN_LR),
                      "h": adam(nets["h"], GAN_LR), "a": adam(nets["a"], 3e-4, 1e-3)}  # fmt: skip
        state = ClassLosses(CLASSES).to(device, dtype)
        return cls(**nets, train=batch(), valid=batch(), optimizers=optimizers, state=state)


def engine(
    world: World, variant: str, parts: int = 1, ranks: Any = None
) -> tuple[mlopt.Engine, dict[str, mlopt.Problem | mlopt.Signal]]:
    """The graph of `examples/lfm_cw_darts.py` over fixed batches."""
    product = {
        "first order": None,
        "one-sided": mlopt.OneSided(RADIUS),
        "central": mlopt.Central(RADIUS),
        "exact": mlopt.Exact(),
    }[variant]
    first = product is None
    method = mlopt.Frozen() if first else mlopt.OneStep(product=product)
    gan = mlopt.Frozen() if first else mlopt.OneStep(GAN_LR, product)
    A, W1, W2, G, H = (mlopt.Variable(getattr(world, n), n) for n in ("a", "w1", "w2", "g", "h"))
    train, valid = (mlopt.Stream([batch] * EPOCH) for batch in (world.train, world.valid))
    o = world.optimizers

    @mlopt.problem(over=W1, given=[A], data=train, optimizer=o["w1"], clip=CLIP)
    def stage1(w1, a, batch):
        x, y = batch
        return cross_entropy(w1(x, a()), y)

    @mlopt.problem(over=H, given=[G, A], data=train, optimizer=o["h"], hypergrad=mlopt.Frozen())
    def discriminator(h, g, a, batch):
        x, y = batch
        return discriminator_loss(h(x, y, a()), h(g(y), y, a()))

    @mlopt.problem(over=G, given=[H, A], data=train, optimizer=o["g"], hypergrad=gan)
    def generator(g, h, a, batch):
        _, y = batch
        return generator_loss(h(g(y), y, a()))

    @mlopt.signal(given=[W1, A], data=valid, combine="sum")
    def class_sums(w1, a, batch):
        x, y = batch
        return sums_per_class(cross_entropy(w1(x, a()), y, reduction="none"), y, CLASSES)

    @mlopt.signal(given=[class_sums], state=world.state)
    def class_losses(sums):
        return world.state.of_sums(*sums)

    @mlopt.signal(given=[G], data=train)
    def synthetic(g, batch):
        return g(batch[1])

    @mlopt.problem(
        over=W2, given=[A, class_losses, synthetic], data=train, optimizer=o["w2"], clip=CLIP
    )
    def stage2(w2, a, weights, fake, batch):
        x, y = batch
        mistakes = cross_entropy(w2(fake, a()), y, reduction="none")
        return cross_entropy(w2(x, a()), y) + LAMBDA * (weights[y] * mistakes).mean()

    @mlopt.problem(over=A, given=[W2], data=valid, optimizer=o["a"])
    def stage3(a, w2, batch):
        x, y = batch
        return cross_entropy(w2(x, a()), y)

    nodes = [stage1, discriminator, generator, class_sums, class_losses, synthetic, stage2, stage3]
    schedule = mlopt.Sequential() if first else mlopt.Simultaneous()
    made = mlopt.Engine(nodes, hypergrad=method, schedule=schedule, parts=parts, ranks=ranks)
    return made, {n.name: n for n in nodes}


def check(size: str, variant: str, device: str = "cpu") -> float:
    """Relative difference of A's gradient, hand-written against mlopt, in float64."""
    ours, theirs = (World.make(size, device, torch.float64) for _ in range(2))
    made, nodes = engine(ours, variant)
    seeds = {name: made.seed_of(node) for name, node in nodes.items()}
    made.step()
    a = torch.cat([p.grad.flatten() for p in ours.a.parameters()])
    HandLoop(theirs, variant).step(seeds)
    b = torch.cat([p.grad.flatten() for p in theirs.a.parameters()])
    return float((a - b).norm() / b.norm())


def contestant(name: str, variant: str, size: str, device: str) -> Callable[[], None]:
    """A function that takes one step."""
    world = World.make(size, device)
    if name == "mlopt":
        made = engine(world, variant)[0]
        return lambda: made.step() and None
    if name == "hand":
        return HandLoop(world, variant).step
    return betty_step(world, device, CLIP, LAMBDA)


class Passes:
    """Counts forward passes of the networks that contain A."""

    def __enter__(self) -> Passes:
        self.count, self.plain = 0, Supernet.features

        def counted(net: Supernet, *args):
            self.count += 1
            return self.plain(net, *args)

        Supernet.features = counted
        return self

    def __exit__(self, *exception: object) -> None:
        Supernet.features = self.plain


def peak_memory(name: str, variant: str, size: str, device: str) -> float:
    """MiB that three steps need, beyond what is there before the first.

    In a process of its own, unless the device tells what is new.
    """
    if device != "cpu":
        return measure_memory(name, variant, size, device)
    command = [
        sys.executable,
        __file__,
        "--memory",
        name,
        variant,
        "--size",
        size,
        "--device",
        device,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(name: str, variant: str, size: str, device: str) -> float:
    step = contestant(name, variant, size, device)
    before = peak_bytes(device, reset=True)
    for _ in range(3):
        step()
    return (peak_bytes(device) - before) / 2**20


def compare(variant: str, options: argparse.Namespace, betty: bool) -> dict[str, object]:
    """One row of the table."""
    size, device = options.size, options.device
    steps = {name: contestant(name, variant, size, device) for name in ("mlopt", "hand")}
    steps["hand again"] = contestant("hand", variant, size, device)
    if betty and variant in ("one-sided", "central"):
        steps["betty"] = contestant("betty", variant, size, device)
    row: dict[str, object] = {"": variant, "difference": f"{check('tiny', variant, device):.0e}"}
    row["passes mlopt / hand"] = " / ".join(str(count_passes(steps[n])) for n in ("mlopt", "hand"))
    times = rounds(steps, options.pairs, device)
    row["mlopt, ms"] = 1e3 * statistics.median(times["mlopt"])
    row["mlopt / hand"] = ratio(times["mlopt"], times["hand"])
    row["hand / hand"] = ratio(times["hand again"], times["hand"])
    if "betty" in times:
        row["Betty / mlopt"] = ratio(times["betty"], times["mlopt"])
    for name in ("mlopt", "hand") if options.memory_too else ():
        row[f"{name}, MiB"] = round(peak_memory(name, variant, size, device))
    return row


def count_passes(step: Callable[[], None]) -> int:
    step()
    with Passes() as passes:
        step()
    return passes.count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--no-memory", dest="memory_too", action="store_false")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size, device = options.size, options.device
    if options.memory:
        print(measure_memory(*options.memory, size, device))
        return
    betty = betty_step(None, device, CLIP, LAMBDA) is not None
    rows = []
    for variant in options.variants:
        rows.append(compare(variant, options, betty))
        print(rows[-1], flush=True)
    last = "Betty is not installed here."
    if betty:
        passes = count_passes(contestant("betty", "central", size, device))
        last = f"Betty (type darts): {passes} passes"
        if options.memory_too:
            last += f", {peak_memory('betty', 'central', size, device):.0f} MiB"
        last += "."
    extra = (
        f"{options.pairs} rounds of all contestants in turn. Ratios: median [quartiles], pair by "
        "pair. Difference: of A's gradient between mlopt and the loop, relative, in float64. MiB: "
        "needed by three steps beyond what was there before."
    )
    text = f"{header(f'One LFM-CW step, size {size}', device, extra)}\n{SIZES[size]}\n\n"
    text += f"{format_table(rows, markdown=True)}\n\n{last}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

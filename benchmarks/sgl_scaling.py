"""SGL with K learners: a step's time, network passes and memory against K.

All contestants run on the same supernets and batches. The hand-written loop (`sgl_hand.py`) does
the same mathematics in the same number of passes; before timing, its architecture gradients are
compared with mlopt's in float64. Betty (`sgl_betty.py`) differentiates every path by itself, and
there are K^2 of them: it is timed in rounds of its own, fewer of them.

    python benchmarks/sgl_scaling.py
    python benchmarks/sgl_scaling.py --learners 1 2 --channels 4 --cells 3 --nodes 2 --image 8
    python benchmarks/sgl_scaling.py --device cuda --output benchmarks/results/x.md

With --output x.md the chart becomes x.svg. Times are taken in alternated rounds: a ratio holds on a
noisy machine, a time does not. Betty is left out with a message where it is not installed:
    pip install --ignore-requires-python --no-deps betty-ml==0.2.1
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from header import header
from lfm_cw_step import count_passes
from memory import peak_bytes
from scaling_chart import chart
from sgl_betty import betty_step
from sgl_graph import PRODUCTS, Size, World, sgl_engine
from sgl_hand import HandLoop
from timing import ratio, rounds

from mlopt.report import format_table

Step = Callable[[], None]
Row = dict[str, Any]

LEARNERS = (1, 2, 4, 8)
#: Ways to run the graph with mlopt, by the options of the engine; one more is one more column.
ENGINES: dict[str, dict[str, Any]] = {"mlopt": {}, "mlopt, stacked": {"stacked": True}}
METHODS = ("mlopt", "hand", "Betty")
#: At most this, for mlopt's time with eight learners beside that with two.
GROWTH = 4.4


def contestant(method: str, learners: int, product: str, size: Size, device: str) -> Step | None:
    """A function that takes one step; None where there is none."""
    world = World.make(learners, size, device)
    if method == "hand":
        return HandLoop(world, product).step
    if method == "Betty":
        return betty_step(world, device) if product == "central" else None
    engine = sgl_engine(world, product, **ENGINES[method])
    return lambda: engine.step() and None


def check(
    learners: int,
    product: str,
    size: Size,
    device: str = "cpu",
    method: str = "mlopt",
    steps: int = 2,
) -> float:
    """Relative difference of the architectures' gradients, hand-written against mlopt, float64.

    The largest of a few steps: the optimizers have a state from the second on.
    """
    ours, theirs = (World.make(learners, size, device, torch.float64) for _ in range(2))
    engine, loop = sgl_engine(ours, product, **ENGINES[method]), HandLoop(theirs, product)
    worst = 0.0
    for _ in range(steps):
        engine.step()
        loop.step()
        a, b = (
            torch.cat([p.grad.flatten() for p in world.group.parameters()])
            for world in (ours, theirs)
        )
        worst = max(worst, float((a - b).norm() / b.norm()))
    return worst


def peak_memory(method: str, learners: int, product: str, size: Size, device: str) -> float:
    """MiB that three steps need, beyond what is there before the first.

    In a process of its own, unless the device tells what is new.
    """
    if device != "cpu":
        return measure_memory(method, learners, product, size, device)
    sizes = [x for k, v in dataclasses.asdict(size).items() for x in (f"--{flag(k)}", str(v))]
    command = [sys.executable, __file__, "--memory", method, str(learners), "--product", product]
    done = subprocess.run(
        [*command, "--device", device, *sizes], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def measure_memory(method: str, learners: int, product: str, size: Size, device: str) -> float:
    step = contestant(method, learners, product, size, device)
    assert step is not None
    before = peak_bytes(device, reset=True)
    for _ in range(3):
        step()
    return (peak_bytes(device) - before) / 2**20


def compare(learners: int, options: argparse.Namespace, size: Size) -> Row:
    """One row of the table."""
    product, device = options.product, options.device

    def make(method: str) -> Step | None:
        return contestant(method, learners, product, size, device)

    methods = [m for m in options.methods if m != "Betty" or learners <= options.betty_most]
    steps = {m: step for m in methods if (step := make(m)) is not None}
    row: Row = {"learners": learners}
    if "hand" in steps:
        row["difference"] = f"{check(learners, product, options.check_size, device):.0e}"
    world = World.make(learners, size, device)
    row["evaluations"] = sgl_engine(world, product).plan().evaluations
    row["passes " + " / ".join(steps)] = " / ".join(str(count_passes(s)) for s in steps.values())
    alone = "Betty" in steps and options.betty_pairs < options.pairs
    quick = {m: s for m, s in steps.items() if m != "Betty" or not alone}
    if "hand" in steps:
        quick["hand again"] = contestant("hand", learners, product, size, device)  # type: ignore[assignment]
    times = rounds(quick, options.pairs, device)
    row |= {f"{m}, ms": milliseconds(times[m]) for m in quick if m != "hand again"}
    slow = times
    if alone:
        slow = rounds({m: steps[m] for m in ("mlopt", "Betty") if m in steps},
                      options.betty_pairs, device)  # fmt: skip
        row["Betty, ms"] = milliseconds(slow["Betty"])
    if "hand" in steps:
        for method in [m for m in steps if m in ENGINES]:
            row[f"{method} / hand"] = ratio(times[method], times["hand"])
        row["hand / hand"] = ratio(times["hand again"], times["hand"])
    if "Betty" in steps and "mlopt" in steps:
        row["Betty / mlopt"] = ratio(slow["Betty"], slow["mlopt"])
    if options.memory_too:
        for method in steps:
            found = peak_memory(method, learners, product, size, device)
            row[f"{method}, MiB"] = round(found)
    return row


def milliseconds(times: list[float]) -> float:
    return 1e3 * statistics.median(times)


def growth(method: str, low: int, high: int, options: argparse.Namespace, size: Size) -> str:
    """The time of one method with more learners beside that with fewer, as interleaved pairs."""
    steps: dict[str, Any] = {
        str(k): contestant(method, k, options.product, size, options.device) for k in (low, high)
    }
    times = rounds(steps, options.pairs, options.device)
    return ratio(times[str(high)], times[str(low)])


def flag(name: str) -> str:
    return name.replace("_", "-")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--learners", type=int, nargs="+", default=list(LEARNERS))
    parser.add_argument("--product", choices=PRODUCTS, default=PRODUCTS[0])
    parser.add_argument(
        "--methods", nargs="+", choices=(*ENGINES, *METHODS[1:]), default=list(METHODS)
    )
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--betty-pairs", type=int, default=3, help="rounds of mlopt and Betty")
    parser.add_argument("--betty-most", type=int, default=4, help="learners that Betty is timed at")
    for entry in dataclasses.fields(Size):
        parser.add_argument(f"--{flag(entry.name)}", type=int, default=entry.default)
    parser.add_argument("--no-memory", dest="memory_too", action="store_false")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pairs < 2 or options.betty_pairs < 2:
        parser.error("--pairs and --betty-pairs: a spread needs two rounds or more.")
    options.check_size = Size(channels=4, cells=3, nodes=1, image=8, batch=8)
    return options


def main() -> None:
    options = parse()
    logging.disable(logging.INFO)  # Betty reports every path
    size = Size(*(getattr(options, entry.name) for entry in dataclasses.fields(Size)))
    product, device = options.product, options.device
    if options.memory:
        method, learners = options.memory
        print(measure_memory(method, int(learners), product, size, device))
        return
    if "Betty" in options.methods and contestant("Betty", 1, product, size, device) is None:
        print("Betty is left out: it is not installed, or has no such product.")
    rows = []
    for learners in options.learners:
        rows.append(compare(learners, options, size))
        print(rows[-1], flush=True)
    extra = (
        f"{product} products; {options.pairs} rounds of all contestants in turn ("
        f"{options.betty_pairs} with Betty). Ratios: median [quartiles], pair by pair. Difference: "
        "of the architectures' gradients between mlopt and the loop, relative, in float64, at a "
        "tiny size. Evaluations: of mlopt's plan. MiB: needed by three steps beyond what was there "
        "before."
    )
    text = f"{header('SGL against the number of learners', device, extra)}\n{size}\n\n"
    text += f"{format_table(rows, markdown=True)}\n"
    if {2, 8} <= set(options.learners):
        for method in [m for m in options.methods if m in ENGINES]:
            found = growth(method, 2, 8, options, size)
            text += f"\n{method}, eight learners / two: {found} (wanted: at most {GROWTH})\n"
    if options.output:
        path = options.output.with_suffix(".svg")
        quantities = {"ms a step": "{}, ms", "peak MiB": "{}, MiB"}
        panels = {
            label: {m: values(rows, key.format(m)) for m in options.methods}
            for label, key in quantities.items()
            if options.memory_too or label != "peak MiB"
        }
        if chart(panels, "learners", path):
            text += f"\n![Time and memory against the number of learners]({path.name})\n"
        options.output.write_text(text, encoding="utf-8")
    print(text)


def values(rows: list[Row], key: str) -> list[tuple[float, float]]:
    return [(row["learners"], row[key]) for row in rows if key in row]


if __name__ == "__main__":
    main()

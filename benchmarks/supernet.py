"""Forward and backward of one training step: mlopt's supernet beside the per-edge definition.

Both have the same parameters, inputs and options, and give the same numbers: the difference of
logits and of all gradients, in float64, stands beside the times. Several values of a size make a
row each.

    python benchmarks/supernet.py
    python benchmarks/supernet.py --channels 8 16 32 --space darts p-darts/2 pc-darts darts-minus
    python benchmarks/supernet.py --device cuda --bf16 --channels-last --compile --plain

Times are taken in alternated pairs: a ratio holds on a noisy machine, a time does not. `p-darts/2`
is the second stage of P-DARTS; its number of cells is that of the stage, --layers is the first's.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from header import header
from memory import peak_bytes
from supernet_twin import paired_parameters, twin
from timing import ratio, rounds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlopt.nas import PDARTS, SPACES, SearchSpace
from mlopt.report import format_table

Step = Callable[[], None]

NAMES = [*SPACES, "p-darts/2", "p-darts/3"]
CONTESTANTS = ("mlopt", "per edge")
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Size:
    """One row: the network and what it is given."""

    space: str = "darts"
    channels: int = 16
    layers: int = 8
    nodes: int = 4
    batch: int = 64
    image: int = 32

    def make(self) -> SearchSpace:
        """The search space; a later stage of P-DARTS follows random architectures."""
        name, _, stage = self.space.partition("/")
        space = SPACES[name](channels=self.channels, layers=self.layers, nodes=self.nodes)
        generator = torch.Generator().manual_seed(0)
        for _ in range(int(stage or 1) - 1):
            following = space.following(space.architecture(generator))
            assert following is not None
            space = following
        return space


@dataclasses.dataclass(frozen=True)
class Way:
    """How a contestant computes."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    bf16: bool = False
    compile: bool = False
    cuda_graph: bool = False


class Contestant:
    """A network, its architecture and a batch; both contestants are drawn from the same seed."""

    def __init__(self, name: str, size: Size, way: Way, space: SearchSpace | None = None) -> None:
        space = space or size.make()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a = space.architecture()
            with torch.no_grad():
                for parameter in self.a.parameters():
                    parameter.normal_()
            x = torch.randn(size.batch, 3, size.image, size.image)
            y = torch.randint(CLASSES, (size.batch,))
            self.network: nn.Module = space.supernet(CLASSES)
            if name == "per edge":
                self.network = twin(self.network, space)
        memory = torch.channels_last if way.channels_last else torch.contiguous_format
        self.a.to(way.device, way.dtype)
        self.network.to(way.device, way.dtype, memory_format=memory)
        self.x, self.y = x.to(way.device, way.dtype, memory_format=memory), y.to(way.device)
        self.way = way
        self.call = torch.compile(self.network) if way.compile else self.network

    def logits(self) -> Tensor:
        return self.call(self.x, self.a())

    def forward_backward(self) -> None:
        """Leave new gradients in the weights and in the architecture."""
        self.network.zero_grad()
        self.a.zero_grad()
        kind = torch.device(self.way.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.way.bf16):
            loss = cross_entropy(self.logits(), self.y)
        loss.backward()

    def step(self) -> Step:
        """A function that is timed."""
        return self._graphed() if self.way.cuda_graph else self.forward_backward

    def _graphed(self) -> Step:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.forward_backward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.forward_backward()
        return graph.replay


def difference(size: Size, device: str) -> float:
    """The largest relative difference, of logits or of all gradients, in float64."""
    space = size.make()
    if isinstance(space, PDARTS):  # masks of skip connections are drawn in another order
        space = dataclasses.replace(space, skip_dropout=(0.0,) * len(space.stages))
    way = Way(device=device, dtype=torch.float64)
    fast, naive = (Contestant(name, size, way, space) for name in CONTESTANTS)
    ours, theirs = fast.logits(), naive.logits()
    pairs = paired_parameters(fast.network, naive.network)
    pairs += zip(fast.a.parameters(), naive.a.parameters(), strict=True)
    a = gradients(cross_entropy(ours, fast.y), [p for p, _ in pairs])
    b = gradients(cross_entropy(theirs, naive.y), [p for _, p in pairs])
    return max(relative(ours, theirs), relative(a, b))


def gradients(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    """Of all parameters, one after the other; few layers leave one kind of cell out."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([t.flatten() for t in found])


def relative(one: Tensor, two: Tensor) -> float:
    return ((one - two).norm() / two.norm()).item()


def row(size: Size, way: Way, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table."""
    ways = {"mlopt": way, "per edge": plain(way) if options.plain else way}
    steps = {name: Contestant(name, size, ways[name]).step() for name in CONTESTANTS}
    times = rounds({**steps, "again": steps["per edge"]}, options.pairs, way.device)
    found: dict[str, Any] = dataclasses.asdict(size)
    for name in CONTESTANTS:
        found[f"{name}, ms"] = f"{1e3 * statistics.median(times[name]):.1f}"
    found["per edge / mlopt"] = ratio(times["per edge"], times["mlopt"])
    found["per edge / per edge"] = ratio(times["again"], times["per edge"])
    if options.memory_too:
        for name in CONTESTANTS:
            found[f"{name}, MiB"] = round(peak_memory(name, size, ways[name]))
    small = dataclasses.replace(size, batch=min(size.batch, options.check_batch))
    found["difference"] = f"{difference(small, way.device):.0e}"
    return found


def plain(way: Way) -> Way:
    """The same device and number format, and nothing else."""
    return Way(device=way.device, dtype=way.dtype, bf16=way.bf16)


def peak_memory(name: str, size: Size, way: Way) -> float:
    """MiB that steps need beyond what is there before the first.

    In a process of its own, unless the device tells what is new.
    """
    if way.device != "cpu":
        return measure_memory(name, size, way)
    command = [sys.executable, __file__, "--memory", name, "--device", way.device]
    command += ["--dtype", str(way.dtype).removeprefix("torch.")]
    for field, value in dataclasses.asdict(size).items():
        command += [f"--{field}", str(value)]
    for flag in FLAGS:
        command += [option(flag)] if getattr(way, flag) else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_memory(name: str, size: Size, way: Way) -> float:
    contestant = Contestant(name, size, way)
    before = peak_bytes(way.device, reset=True)
    step = contestant.step()  # a CUDA graph keeps its memory from here on
    for _ in range(3):
        step()
    return (peak_bytes(way.device) - before) / 2**20


FLAGS = ("channels_last", "bf16", "compile", "cuda_graph")


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(Size):
        known: dict[str, Any] = {"type": int}
        if field.name == "space":
            known = {"choices": NAMES}
        parser.add_argument(f"--{field.name}", nargs="+", default=[field.default], **known)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16"), default="float32")
    parser.add_argument("--channels-last", action="store_true", help="memory format")
    parser.add_argument("--bf16", action="store_true", help="forward passes under autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--cuda-graph", action="store_true", help="replay one recorded step")
    parser.add_argument(
        "--plain", action="store_true", help="the per-edge one in eager mode and default format"
    )
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--check-batch", type=int, default=8, help="batch of the difference")
    parser.add_argument("--no-memory", dest="memory_too", action="store_false")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.pairs < 2:
        parser.error("--pairs: a spread needs two or more.")
    if options.cuda_graph and not options.device.startswith("cuda"):
        parser.error("--cuda-graph needs --device cuda.")
    return options


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    options = parse(arguments)
    way = Way(
        device=options.device,
        dtype=getattr(torch, options.dtype),
        **{name: getattr(options, name) for name in FLAGS},
    )
    values = [getattr(options, field.name) for field in dataclasses.fields(Size)]
    sizes = [Size(*chosen) for chosen in itertools.product(*values)]
    if options.memory:
        print(measure_memory(options.memory, sizes[0], way))
        return []
    rows = []
    for size in sizes:
        rows.append(row(size, way, options))
        print(rows[-1], flush=True)
    chosen = ", ".join(name for name in FLAGS if getattr(way, name)) or "none"
    extra = (
        f"{options.dtype}; options: {chosen}, {'of mlopt only' if options.plain else 'of both'}; "
        f"{options.pairs} pairs. Times: medians. Ratios: median [quartiles], pair by pair; above 1 "
        "mlopt is faster. MiB: needed by three steps beyond what was there before. Difference: of "
        f"logits or all gradients, the larger, relative, in float64, batch {options.check_batch} "
        "at most."
    )
    text = f"{header('The supernet and its definition', options.device, extra)}\n"
    text += f"{format_table(rows, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()

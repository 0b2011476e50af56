"""Memory and time of an unrolled hypergradient against the number of steps.

A tanh network is trained for K steps of SGD with momentum on one batch, and the validation loss
after them is differentiated by a log weight decay for each of its tensors. mlopt stores the steps
or computes them again; higher and TorchOpt (MetaSGD) store them. On the CPU each measurement has a
process of its own. A library that is not installed is left out; `peers/__init__.py` says how to
install them.

    python benchmarks/unroll_memory.py
    python benchmarks/unroll_memory.py --steps 1 10 100 --output x.md

With --output x.md the chart becomes x.svg. Memory is what the call needs beyond what was there
before, after a first call of one step: of the process (Linux), or of the device's allocator.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from header import header
from memory import peak_bytes
from timing import seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.report import format_table

STEPS = (1, 3, 10, 30, 100, 300, 1000)
SIZES, BATCH = (64, 128, 128, 10), 256
LR, MOMENTUM, LOG_DECAY = 0.05, 0.9, -4.0
DISTRIBUTIONS = {"higher": "higher", "TorchOpt": "torchopt"}
METHODS = ("mlopt, stored", "mlopt, recompute", *DISTRIBUTIONS)

Batch = tuple[Tensor, Tensor]


class Network(nn.Module):
    """The network with its training objective: its loss, and a decay of each of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(SIZES, SIZES[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, batch: Batch, r: Tensor | None = None) -> Tensor:
        loss = cross_entropy(self.layers(batch[0]), batch[1])
        if r is None:
            return loss
        squares = torch.stack([p.square().sum() for p in self.parameters()])
        return loss + 0.5 * (r.exp() * squares).sum()


def world(device: str) -> tuple[Network, Tensor, Batch, Batch]:
    torch.manual_seed(0)
    network = Network().to(device)
    r = torch.full((len(list(network.parameters())),), LOG_DECAY, device=device)

    def batch() -> Batch:
        x, y = torch.randn(BATCH, SIZES[0]), torch.randint(SIZES[-1], (BATCH,))
        return x.to(device), y.to(device)

    return network, r, batch(), batch()


def with_mlopt(steps: int, device: str, recompute: bool) -> Callable[[], Tensor]:
    network, start, train, valid = world(device)
    W = mlopt.Variable(network, "w")
    R = mlopt.Variable(nn.Parameter(start), "r")

    @mlopt.problem(
        over=W,
        given=[R],
        data=[train],
        optimizer=torch.optim.SGD(W.parameters(), LR, MOMENTUM),
        hypergrad=mlopt.Unrolled(steps, recompute=recompute),
    )
    def fit(w: Network, r: Tensor, batch: Batch) -> Tensor:
        return w(batch, r)

    @mlopt.problem(over=R, given=[W], data=[valid])
    def validation(r: Tensor, w: Network, batch: Batch) -> Tensor:
        return w(batch)

    engine = mlopt.Engine([fit, validation])
    return lambda: engine.hypergradient(validation)[R][""]


def with_higher(steps: int, device: str) -> Callable[[], Tensor]:
    import higher

    network, start, train, valid = world(device)

    def call() -> Tensor:
        r = start.clone().requires_grad_()
        optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM)
        with higher.innerloop_ctx(network, optimizer) as (patched, differentiable):
            for _ in range(steps):
                differentiable.step(patched(train, r))
            return torch.autograd.grad(patched(valid), r)[0]

    return call


def with_torchopt(steps: int, device: str) -> Callable[[], Tensor]:
    import torchopt

    network, start, train, valid = world(device)
    initial = torchopt.extract_state_dict(network, by="copy")

    def call() -> Tensor:
        r = start.clone().requires_grad_()
        torchopt.recover_state_dict(network, initial)
        optimizer = torchopt.MetaSGD(network, lr=LR, momentum=MOMENTUM)
        for _ in range(steps):
            optimizer.step(network(train, r))
        return torch.autograd.grad(network(valid), r)[0]

    return call


def contestant(method: str, steps: int, device: str) -> Callable[[], Tensor]:
    """A function that takes the hypergradient."""
    if method == "higher":
        return with_higher(steps, device)
    if method == "TorchOpt":
        return with_torchopt(steps, device)
    return with_mlopt(steps, device, recompute=method == "mlopt, recompute")


def measure(method: str, steps: int, device: str) -> dict[str, Any]:
    """Memory and seconds of one call, and what it gives; best in a process of its own."""
    contestant(method, 1, device)()
    call = contestant(method, steps, device)
    found: list[Tensor] = []
    before = peak_bytes(device, reset=True)
    times = [seconds(lambda: found.append(call()), device)]
    memory = (peak_bytes(device) - before) / 2**20
    times += [seconds(lambda: found.append(call()), device) for _ in range(2 if steps < 300 else 0)]
    return {"MiB": memory, "s": statistics.median(times), "gradient": found[0].tolist()}


def apart(method: str, steps: int, device: str) -> dict[str, Any]:
    """The same in a process of its own, unless the device tells what is new."""
    if device != "cpu":
        return measure(method, steps, device)
    command = [sys.executable, __file__, "--measure", method, "--steps", str(steps)]
    done = subprocess.run(
        [*command, "--device", device], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def difference(one: list[float], two: list[float]) -> float:
    a, b = torch.tensor(one), torch.tensor(two)
    return ((a - b).norm() / b.norm()).item()


def table(found: dict[int, dict[str, Any]], key: str) -> str:
    rows = [
        {"steps": steps, **{m: float(f"{r[key]:.3g}") for m, r in results.items()}}
        for steps, results in found.items()
    ]
    return format_table(rows, markdown=True)


def draw(found: dict[int, dict[str, Any]], path: Path) -> None:
    """Memory and time against the number of steps."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        print(f"No chart: {error}")
        return
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (key, label) in zip(
        figure.subplots(1, 2), {"MiB": "peak memory, MiB", "s": "seconds"}.items(), strict=True
    ):
        for method, mark in zip(next(iter(found.values())), "osDv", strict=False):
            values = [max(results[method][key], 1e-3) for results in found.values()]
            hollow = "none" if method.startswith("mlopt") else "full"
            axes.loglog(
                list(found), values, marker=mark, label=method, fillstyle=hollow,
                markersize=8 if hollow == "none" else 4,
            )  # fmt: skip
        axes.set(xlabel="unrolled steps", ylabel=label)
        axes.grid(linewidth=0.3)
        axes.legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "mlopt"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--note", default="", help="added to the header, as what else was running")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    device = arguments.device
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.steps[0], device)))
        return
    methods = [m for m in METHODS if present(m)]
    found: dict[int, dict[str, Any]] = {}
    for steps in arguments.steps:
        found[steps] = {m: apart(m, steps, device) for m in methods}
        print(steps, {m: (round(r["MiB"], 1), round(r["s"], 3)) for m, r in found[steps].items()})
    text = report(found, methods, device, arguments.note)
    if arguments.output:
        chart = arguments.output.with_suffix(".svg")
        draw(found, chart)
        if chart.exists():
            text += f"\n![Memory and time against steps]({chart.name})\n"
        arguments.output.write_text(text, encoding="utf-8")
    print(text)


def present(method: str) -> bool:
    if method in DISTRIBUTIONS and importlib.util.find_spec(DISTRIBUTIONS[method]) is None:
        print(f"{method} is left out: it is not installed.")
        return False
    return True


def report(found: dict[int, dict[str, Any]], methods: list[str], device: str, note: str) -> str:
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for method, name in DISTRIBUTIONS.items()
        if method in methods
    ]
    last, results = list(found.items())[-1]
    stored, again = (results[m] for m in METHODS[:2])
    worst = max(
        difference(r["gradient"], at["mlopt, stored"]["gradient"])
        for at in found.values()
        for r in at.values()
    )
    head = header(
        "Memory of an unrolled hypergradient",
        device,
        f"float32. Beside mlopt: {', '.join(versions) or 'no other library'}.",
    )
    layers = "-".join(map(str, SIZES))
    place = "Each in a process of its own" if device == "cpu" else "All in one process"
    less = stored["MiB"] / max(again["MiB"], 1e-3)
    return (
        f"{head}\n{note + chr(10) * 2 if note else ''}"
        f"A tanh network {layers}, batch {BATCH}, SGD with learning rate {LR} and momentum "
        f"{MOMENTUM}; the hypergradient of a log weight decay for each tensor. "
        f"{place}. The gradients of all methods agree with those of mlopt, stored, to "
        f"{worst:.0e}, the largest relative difference at any number of steps.\n\n"
        f"At {last} steps, recomputing needs 1/{less:.1f} of the memory of "
        f"storing (wanted at 1000: less than 1/8), and {again['s'] / stored['s']:.2f} of its "
        "time.\n\n"
        "## Peak memory, MiB\n\nBeyond what was there before the call. Below a few MiB it says "
        f"little.\n\n{table(found, 'MiB')}\n\n"
        "## Seconds\n\nOf one call; the median of three below 300 steps.\n\n"
        f"{table(found, 's')}\n"
    )


if __name__ == "__main__":
    main()

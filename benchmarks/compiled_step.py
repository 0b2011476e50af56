"""One step of DARTS' bilevel search or of LFM-CW, compiled against eager.

Both contestants have equal networks and batches; their steps alternate, so a ratio holds on a noisy
machine. Seconds of compiling, graph breaks and recompilations are the engine's own counts.
Before timing, three steps of both are compared in float64.

    python benchmarks/compiled_step.py --problem darts --size tiny
    python benchmarks/compiled_step.py --problem lfm-cw --size c8l5 --device cuda --output x.md

The default backend, inductor, needs a C++ compiler, and Triton on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lfm_cw_step
import torch
from header import header
from lfm_cw_step import SIZES, World
from timing import ratio, rounds
from torch import Tensor
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.report import format_table

VARIANTS = {
    "first order": mlopt.Frozen(),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided(0.01)),
    "central": mlopt.OneStep(product=mlopt.Central(0.01)),
}


def darts(world: World, variant: str, compile: Any) -> mlopt.Engine:
    """DARTS: the architecture is judged by the validation loss of what training makes of w."""
    A, W = mlopt.Variable(world.a, "a"), mlopt.Variable(world.w1, "w")
    o = world.optimizers

    @mlopt.problem(over=W, given=[A], data=mlopt.Stream([world.train]), optimizer=o["w1"])
    def train(w, a, batch):
        x, y = batch
        return cross_entropy(w(x, a()), y)

    @mlopt.problem(over=A, given=[W], data=mlopt.Stream([world.valid]), optimizer=o["a"])
    def valid(a, w, batch):
        x, y = batch
        return cross_entropy(w(x, a()), y)

    return mlopt.Engine([train, valid], hypergrad=VARIANTS[variant], compile=compile)


def lfm_cw(world: World, variant: str, compile: Any) -> mlopt.Engine:
    """The graph of the other benchmark."""
    made = lfm_cw_step.engine(world, variant)[0]
    return mlopt.Engine(
        made.graph.nodes, hypergrad=made.graph.default, schedule=made.schedule, compile=compile
    )


PROBLEMS: dict[str, Callable[..., mlopt.Engine]] = {"darts": darts, "lfm-cw": lfm_cw}


def state(world: World) -> Tensor:
    nets = (world.a, world.w1, world.w2, world.g, world.h)
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


def check(problem: str, variant: str, size: str, backend: str, steps: int = 3) -> float:
    """Relative difference of all parameters after some steps in float64."""
    states = []
    for compile in ({"backend": backend}, False):
        world = World.make(size, "cpu", torch.float64)
        engine = PROBLEMS[problem](world, variant, compile)
        for _ in range(steps):
            engine.step()
        states.append(state(world))
    compiled, eager = states
    return float((compiled - eager).norm() / eager.norm())


def compare(
    problem: str, variant: str, size: str, device: str, backend: str, pairs: int
) -> tuple[dict[str, object], mlopt.Engine]:
    """One row of the table, and the engine that was compiled."""
    made = PROBLEMS[problem]
    options = {"backend": backend}
    engines = {
        "compiled": made(World.make(size, device), variant, options),
        "eager": made(World.make(size, device), variant, False),
        "eager again": made(World.make(size, device), variant, False),
    }
    steps = {name: (lambda e=e: e.step() and None) for name, e in engines.items()}
    times = rounds(steps, pairs, device)
    counts = engines["compiled"].compiled
    row = {
        "": variant,
        "difference": f"{check(problem, variant, 'tiny', backend):.0e}",
        "compiled, ms": 1e3 * statistics.median(times["compiled"]),
        "eager / compiled": ratio(times["eager"], times["compiled"]),
        "eager / eager": ratio(times["eager again"], times["eager"]),
        "graphs": counts.graphs,
        "breaks": counts.breaks,
        "recompilations": counts.recompilations,
        "compiling, s": counts.seconds,
    }
    return row, engines["compiled"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problem", choices=PROBLEMS, default="darts")
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--output", type=Path)
    o = parser.parse_args()
    rows, texts = [], []
    for variant in o.variant:
        row, engine = compare(o.problem, variant, o.size, o.device, o.backend, o.pairs)
        print(row, flush=True)
        rows.append(row)
        texts.append(f"{variant}\n{engine.compiled}")
    counts = "\n\n".join(texts)
    title = f"One {o.problem} step compiled by {o.backend}, size {o.size}"
    extra = (
        f"{o.pairs} rounds of all in turn. Ratios: median [quartiles], pair by pair. Difference: "
        "of all parameters after three steps of size tiny, relative, in float64."
    )
    text = (
        f"{header(title, o.device, extra)}\n{SIZES[o.size]}\n\n"
        f"{format_table(rows, markdown=True)}\n\n```\n{counts}\n```\n"
    )
    print(text)
    if o.output:
        o.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

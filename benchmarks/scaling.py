"""What a step gives to other ranks, how long a ring takes for it, and what a rank must hold.

    python benchmarks/scaling.py --output benchmarks/results/scaling_cpu.md
    python benchmarks/scaling.py --engine my_module:make_engine --ranks 64

Without `--engine`: LFM-CW and SGL with the networks of the preset `paper`, whose parameters are
counted here, and a language model of a billion parameters with weights of its data, of which no
memory is taken. Traffic is that of the formulas in scaling_model.py, checked here against
`engine.plan(ranks=)` of a small model of the same shape. With `--engine`: what the plan of that
engine counts, one step of which is tried on this process's batches. The function takes nothing and
makes the engine, as for `mlopt.verify_resume`.

Times follow from bandwidths that are assumptions (`LINKS`): nothing here was measured on several
GPUs. Memory of steps is measured on one rank, at the small model.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts bytes here, and is quiet

import argparse
import functools
import importlib
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from header import header
from memory import peak_kib
from scaling_graphs import lfm_cw, sgl, weighted
from scaling_language import LARGE, OPTIMIZERS, SMALL, Language, language
from scaling_model import LINKS, Level, ring, staged
from torch import Tensor, nn

import mlopt
from mlopt.data import ImageData
from mlopt.generators import SharedDiscriminator
from mlopt.report import format_table

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

METHODS: dict[str, Any] = {
    "first order": mlopt.Frozen(),
    "exact": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided()),
}
MORE: dict[str, Any] = {
    "Sama": mlopt.Sama(),
    "Implicit(CG(5)), exact": mlopt.Implicit(mlopt.CG(max_steps=5, tol=0)),
    "Implicit(CG(5)), central": mlopt.Implicit(mlopt.CG(max_steps=5, tol=0), mlopt.Central()),
    "Unrolled(5)": mlopt.Unrolled(5),
    "ZerothOrder(8)": mlopt.ZerothOrder(samples=8),
}
#: Weights of data act through the model alone: in first order they have no gradient.
OF_WEIGHTS = {n: m for n, m in {**METHODS, **MORE}.items() if m.responds}
#: Of gradients, products, and all else that ranks give each other on their devices.
PURPOSES = ("gradients", "cotangents", "products", "signals", "decision")
SAMPLES = 10**6  # whose weights are learned, of the large model
SPEED = 4e14  # operations a second of a rank: an assumption, 40 % of what an H100 has in bfloat16


# Rows.


def row(name: str, traffic: Mapping[str, tuple[int, int]], ranks: int) -> dict[str, Any]:
    """What goes between ranks in a step, and how long that takes."""
    found: dict[str, Any] = {"": name}
    sent = {what: traffic[what] for what in PURPOSES if what in traffic}
    for what in PURPOSES:
        found[what] = amount(sent.get(what, (0, 0))[1])
    count, size = (sum(n[i] for n in sent.values()) for i in (0, 1))
    found |= {"all": amount(size), "collectives": count}
    for link in LINKS:
        found[f"{link.name}, ms"] = number(1e3 * ring(size, count, ranks, link))
    return found


def amount(size: float) -> str:
    """Bytes in words."""
    if not size:
        return "-"
    units = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
    unit, name = next((u, n) for u, n in units if size >= u)
    return f"{size / unit:.3g} {name}" if size < 1000 * unit else f"{size / unit:.0f} {name}"


def number(x: float) -> str:
    """Of about three digits."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def sizes(module: nn.Module) -> tuple[int, ...]:
    """The bytes of each parameter that has a gradient."""
    unused = "trunk.classifier." if isinstance(module, SharedDiscriminator) else "-"
    trained = [p for n, p in module.named_parameters() if not n.startswith(unused)]
    return tuple(p.numel() * p.element_size() for p in trained if p.requires_grad)


def buffers(module: nn.Module) -> tuple[int, int, bool]:
    """Floating-point numbers in a network's buffers, whole ones, and whether the first are."""
    held = [b for b in module.buffers() if b.dtype is not torch.bool]
    floats = sum(b.numel() for b in held if b.is_floating_point())
    first = bool(held) and not held[0].is_floating_point()
    return floats, sum(b.numel() for b in held) - floats, first


# The papers' networks.


def papers(preset: str) -> dict[str, dict[str, nn.Module]]:
    """The networks of LFM-CW and SGL as the examples make them, of CIFAR-10's size."""
    from lfm_cw_darts import Networks
    from support.networks import search_space, supernet
    from support.settings import parse

    def images(count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, 3, 32, 32, dtype=torch.uint8), torch.arange(count)

    names = tuple(map(str, range(10)))
    data = ImageData("cifar10", *images(10), *images(10), names, (0.5,) * 3, (0.25,) * 3)
    found: dict[str, dict[str, nn.Module]] = {}
    s = parse(None, ["--preset", preset, "--dataset", "cifar10"], example="lfm_cw_darts")
    nets = Networks.make(search_space(data.name, s), data, s)
    found["LFM-CW"] = {n: getattr(nets, n) for n in ("w1", "w2", "g", "h", "a")}
    s = parse(None, ["--preset", preset, "--dataset", "cifar10"], example="sgl_darts")
    space = search_space(data.name, s)
    group: dict[str, nn.Module] = {}
    for k in range(1, s.learners + 1):
        group |= {f"a{k}": space.architecture()}
        group |= {f"{n}{k}": supernet(space, data, s) for n in "vw"}
    found["SGL"] = group
    return found


def of_a_paper(name: str, nets: Mapping[str, nn.Module], ranks: int) -> list[dict[str, Any]]:
    """A row for each product, of one paper."""
    held = {n: sizes(net) for n, net in nets.items()}
    own = {n: buffers(net) for n, net in nets.items()}
    rows = []
    for method, value in METHODS.items():
        levels = lfm_cw(held, value, buffers=own) if "g" in held else sgl(held, value, buffers=own)
        # As the examples do: in first order the levels follow one another.
        traffic = staged(levels, sequential=method == "first order").all
        rows.append(row(f"{name}, {method}", traffic, ranks))
    return rows


def counts(nets: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """How large the networks are."""
    return [
        {
            "network": name,
            "parameters": f"{sum(sizes(net)) // 4:,}",
            "size": amount(sum(sizes(net))),
            "numbers in buffers": f"{sum(buffers(net)[:2]):,}",
        }
        for name, net in nets.items()
    ]


def standing(nets: Mapping[str, nn.Module]) -> str:
    """What a rank holds whatever the batch."""
    w = sum(sum(sizes(net)) for net in nets.values())
    return (
        f"parameters, buffers and states of optimizers {amount(copies(nets))}, as much again in "
        f"copies to undo a step, gradients {amount(w)}."
    )


def copies(nets: Mapping[str, nn.Module]) -> int:
    """Bytes of what a step changes: SGD with momentum for classifiers, Adam for all others."""
    own = {n: sizes(net) for n, net in nets.items()}
    kept = sum(sum(s) + state(s, adam=n[0] in "agh") for n, s in own.items())
    return kept + sum(4 * floats + 8 * whole for floats, whole, _ in map(buffers, nets.values()))


def state(own: Sequence[int], adam: bool) -> int:
    """Bytes of an optimizer's state: a momentum; or two moments, and a count for each tensor."""
    return 2 * sum(own) + 4 * len(own) if adam else sum(own)


# A model of language with weights of its data.


def counted_small(method: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What formulas say of the small model, and what is counted; without the hosts' agreement."""
    engine = language(method)
    levels = _levels(engine, method)
    found = (staged(levels).all, engine.plan(ranks=64).traffic.per_purpose)
    return tuple({k: v for k, v in f.items() if k != "agreement"} for f in found)  # type: ignore[return-value]


def _levels(engine: mlopt.Engine, method: Any) -> list[Level]:
    w, a = (
        tuple(p.numel() * p.element_size() for p in v.parameters()) for v in engine.graph.variables
    )
    return weighted(w, a, method)


def tokens(w: float, ranks: int) -> list[dict[str, Any]]:
    """How many tokens of a rank take as long as the sum of one gradient, for each link.

    By 6 operations for each parameter and token, forward and backward.
    """
    return [
        {
            "link": link.name,
            "ms a sum": number(1e3 * (time := ring(w, 0, ranks, link))),
            "tokens a rank": number(time * SPEED / (6 * w / 4)),
        }
        for link in LINKS
    ]


def large(ranks: int) -> tuple[int, list[dict[str, Any]]]:
    """How many parameters the large model has, and a row for each method."""
    with torch.device("meta"):
        w = sizes(Language(**LARGE))
    alone = staged([Level("w", {}, w, data=("train",))])
    rows = [row("training alone", alone.all, ranks)]
    for name, method in OF_WEIGHTS.items():
        levels = weighted(w, (4 * SAMPLES,), method)
        rows.append(row(name, staged(levels).all, ranks))
    return sum(w) // 4, rows


def memory_rows(ranks: int) -> list[dict[str, Any]]:
    """The most memory of tensors for the small model, in units of its parameters."""
    rows = []
    for optimizer in OPTIMIZERS:
        for name, method in OF_WEIGHTS.items():
            engine = language(method, optimizer)
            w = sum(_levels(engine, method)[0].own)
            engine.step()  # checks its functions, and makes the states of optimizers
            copies = engine.plan(ranks=ranks).copies  # of all that stands
            step = peak_kib(engine.step, "cpu") * 2**10
            trial = peak_kib(functools.partial(engine.plan, ranks), "cpu") * 2**10
            found = {"stands": copies, "a step": step, "its gradients on ranks": trial}
            found["in all"] = copies + max(step, trial)
            in_w = {k: f"{v / w:.1f}" for k, v in found.items()}
            rows.append({"optimizer": optimizer, "method": name, **in_w})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


# Your own.


def of_an_engine(named: str, ranks: int) -> str:
    """What the plan of an engine says, and how long the ring takes."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, function = named.partition(":")
    engine = getattr(importlib.import_module(module), function)()
    plan = engine.plan(ranks=ranks)
    if ranks == 1:
        return str(plan)
    parameters = [p for v in engine.graph.variables for p in v.parameters()]
    held = sum(p.numel() * p.element_size() for p in parameters)
    rows = [row(f"{ranks} ranks", plan.traffic.per_purpose, ranks)]
    return (
        f"{plan}\n\n{table(rows)}\n\nparameters: {amount(held)}; "
        f"copies, to undo a step: {amount(plan.copies)}"
    )


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    return format_table([*rows], markdown=True)


def text(preset: str, few: int, many: int) -> str:
    """The whole result file but for its first lines."""
    links = [
        {
            "link": x.name,
            "GB/s": f"{x.bandwidth / 1e9:g}",
            "us a collective": f"{x.latency * 1e6:g}",
        }
        for x in LINKS
    ]
    sections = [("Links: assumptions", table(links))]
    for name, nets in papers(preset).items():
        found = f"{table(counts(nets))}\n\n{table(of_a_paper(name, nets, few))}\n\n"
        found += f"On each rank, without activations: {standing(nets)}"
        sections.append((f"{name}, preset {preset}, {few} ranks", found))
    parameters, rows = large(many)
    title = f"{parameters:,} parameters, {SAMPLES:,} weights of samples, {many} ranks"
    found = f"{LARGE}\n\n{table(rows)}\n\n"
    found += f"Computing {SPEED / 1e12:g} TFLOP/s (an assumption):\n\n"
    sections.append((title, found + table(tokens(4 * parameters, many))))
    checked = []
    for name, method in OF_WEIGHTS.items():
        formula, counted = counted_small(method)
        collectives, size = (sum(n[i] for n in counted.values()) for i in (0, 1))
        same = "yes" if formula == counted else f"no: {formula} for {counted}"
        checked.append(
            {"method": name, "collectives": collectives, "bytes": size, "as by formula": same}
        )
    sections.append((f"The same graph, small, counted: {SMALL}", table(checked)))
    sections.append(
        (
            "Memory of that beyond what stands, in units of the parameters, measured",
            table(memory_rows(many)),
        )
    )
    return "\n".join(f"## {title}\n\n{found}\n" for title, found in sections)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", help="module:function that makes an engine, of yours")
    parser.add_argument("--ranks", type=int, default=8, help="for the papers, or for your engine")
    parser.add_argument("--large-ranks", type=int, default=64, help="for the large model")
    parser.add_argument("--preset", default="paper", help="of the examples")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", mlopt.ConvergenceWarning)  # solvers of a few steps
    if options.engine:
        print(of_an_engine(options.engine, options.ranks))
        return 0
    extra = "float32. Formulas and counts; no time was measured, and nothing on several GPUs."
    found = f"{header('What goes between ranks', 'cpu', extra)}\n"
    found += text(options.preset, options.ranks, options.large_ranks)
    print(found)
    if options.output:
        options.output.write_text(found, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

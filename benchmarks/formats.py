"""Number and memory formats: time and memory of a step, and what they leave of a hypergradient.

DARTS with --precision and --channels-last of the examples. On a GPU torch computes convolutions of
float32 in TF32, with ten bits of mantissa, unless it is told otherwise: both are measured. A
hypergradient by finite differences needs more bits than a gradient, so that of each product is
compared with its own in float64.

    python benchmarks/formats.py --device cuda
    python benchmarks/formats.py --formats float32 bfloat16 --size tiny --precision-size tiny

Channels-last is for GPUs. On a CPU without AVX-512, torch 2.14 writes beyond its memory in the
backward pass of a 1x1 convolution of stride 2 with few channels, and the process may crash.

Ends with status 1 if a hypergradient is not finite.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts bytes here, and is quiet

import argparse
import contextlib
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from darts_graph import PRODUCTS, SIZES, Darts, Format, Size
from header import header
from memory import peak_kib
from timing import ratio, rounds
from torch import Tensor

from mlopt.report import format_table

FORMATS = {
    "float32": Format(),
    "float32, no TF32": Format(tf32=False),
    "channels-last": Format(channels_last=True),
    "bfloat16": Format(precision="bf16"),
    "bfloat16, channels-last": Format(precision="bf16", channels_last=True),
}


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions may compute in TF32 on a GPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def step_of(size: Size, device: str, form: Format) -> Callable[[], None]:
    """A step of the first order."""
    engine, _ = Darts(size, device, form).engine(PRODUCTS["first order"])

    def step() -> None:
        with tf32(form.tf32):
            engine.step()

    return step


def costs(size: Size, device: str, formats: list[str], pairs: int) -> list[dict[str, Any]]:
    """Time and memory of a step in each format."""
    steps = {name: step_of(size, device, FORMATS[name]) for name in formats}
    times = rounds(steps, pairs, device)
    return [
        {
            "format": name,
            "ms": 1e3 * statistics.median(times[name]),
            f"{formats[0]} / this": ratio(times[formats[0]], times[name]),
            "MiB": round(peak_kib(step, device) / 2**10),
        }
        for name, step in steps.items()
    ]


def hypergradient(size: Size, device: str, form: Format, product: str) -> Tensor:
    """Of the architecture, at the same point in every format."""
    engine, problem = Darts(size, device, form).engine(PRODUCTS[product])
    with tf32(form.tf32):
        (found,) = engine.hypergradient(problem).values()
    return torch.cat([t.flatten() for t in found.values()]).double()


def errors(
    size: Size, device: str, formats: list[str], products: list[str]
) -> list[dict[str, Any]]:
    """The distance of each format's hypergradient to that of float64, by product."""
    rows: dict[str, dict[str, Any]] = {name: {"format": name} for name in formats}
    for product in products:
        truth = hypergradient(size, device, Format(dtype=torch.float64), product)
        for name in formats:
            found = hypergradient(size, device, FORMATS[name], product)
            rows[name][product] = ((found - truth).norm() / truth.norm()).item()
    return list(rows.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="darts", help="of the times")
    parser.add_argument("--precision-size", choices=SIZES, default="small", help="of the errors")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.pairs < 2:
        parser.error("--pairs: a spread needs two or more.")
    size, small = SIZES[options.size], SIZES[options.precision_size]
    cost = costs(size, options.device, options.formats, options.pairs)
    error = errors(small, options.device, options.formats, options.products)
    shown = [{k: v if k == "format" else f"{v:.1e}" for k, v in row.items()} for row in error]
    extra = (
        f"{options.pairs} rounds of all formats in turn. Ratios: median [quartiles], pair by pair; "
        "above 1 the format is faster. MiB: needed by a step beyond what was there before."
    )
    text = (
        f"{header('Formats', options.device, extra)}\n"
        f"## Cost\n\nA step of the first order, {size}:\n\n{format_table(cost, markdown=True)}\n\n"
        f"## Error\n\nOf the hypergradient by each product, relative to its own in float64, "
        f"{small}:\n\n{format_table(shown, markdown=True)}\n"
    )
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    numbers = [v for row in error for k, v in row.items() if k != "format"]
    return int(not all(map(math.isfinite, numbers)))


if __name__ == "__main__":
    sys.exit(main())

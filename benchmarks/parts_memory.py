"""Memory of one step of LFM-CW with its batches whole and in parts.

    python benchmarks/parts_memory.py --output benchmarks/results/parts_memory_cpu.md
    python benchmarks/parts_memory.py --size tiny --batch 8 --parts 2
    python benchmarks/parts_memory.py --device cuda

Memory is that of tensors, allocated beyond what was there before the step: by the device's
allocator, or by torch's profiler on the CPU.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts bytes here, and is quiet

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import lfm_cw_step
from header import header
from memory import peak_kib
from timing import rounds

from mlopt.report import format_table


def measure(variant: str, size: str, parts: int, device: str, pairs: int) -> dict[str, Any]:
    """A row: one step of a variant in so many parts."""
    engine, _ = lfm_cw_step.engine(lfm_cw_step.World.make(size, device), variant, parts)
    engine.step()  # checks its functions, and makes the states of optimizers
    found = {
        "variant": variant,
        "parts": parts,
        "evaluations": engine.plan().evaluations,
        "MiB": peak_kib(engine.step, device) / 2**10,
    }
    found["ms"] = 1e3 * statistics.median(rounds({"step": engine.step}, pairs, device)["step"])
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=lfm_cw_step.SIZES, default="c8l5")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--parts", type=int, nargs="+", default=[4])
    parser.add_argument("--variants", nargs="+", default=["first order", "central", "exact"])
    parser.add_argument("--pairs", type=int, default=1, help="steps that are timed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    lfm_cw_step.SIZES[options.size]["batch"] = options.batch
    rows = []
    for variant in options.variants:
        whole: dict[str, Any] = {}
        for parts in [1, *options.parts]:
            row = measure(variant, options.size, parts, options.device, options.pairs)
            whole = whole or row
            row["memory"] = round(row["MiB"] / whole["MiB"], 3)
            row["time"] = round(row["ms"] / whole["ms"], 2)
            rows.append({k: round(v, 1) if isinstance(v, float) and k in ("MiB", "ms") else v
                         for k, v in row.items()})  # fmt: skip
            print(rows[-1], flush=True)
    extra = (
        f"float32, {options.batch} images; MiB: beyond what was there before; memory and time: "
        f"relative to the whole batch; the median of {options.pairs} steps."
    )
    text = f"{header('A step of LFM-CW in parts of its batches', options.device, extra)}\n"
    text += f"{lfm_cw_step.SIZES[options.size]}\n\n{format_table(rows, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

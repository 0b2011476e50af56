"""Every check and benchmark that needs a GPU, as one command of less than ten minutes on one H200.

    make gpu
    python benchmarks/gpu.py --list
    python benchmarks/gpu.py --only tests memory
    python benchmarks/gpu.py --device cpu        # the same at its smallest: does it run?

Each part is a process of its own with its own limit of time: one that fails, hangs, or runs out of
memory leaves the others alone. Those that measure time run alone, the others before them, side by
side. A part writes benchmarks/results/gpu/<part>.md, or, where it failed before it could, what it
said last; summary.md tells how all of them ended. When the time of the whole is spent, the parts
that are left are named and left out. The status is 0 if every part has passed, 1 if one has failed
or was left out, and 0 where there is no CUDA device.

A part more is a row more in PARTS: a program beside this one with --device and --output.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu_parts import ROOT, Part, run_parts, summary

from mlopt.report import format_table

PARTS = (
    Part(
        "host-synchronisations",
        "how often a step waits for the device: once",
        "host_synchronisations.py",
        smallest="--cases 'two levels, central' engine.run",
        limit=150,
        timed=False,
    ),
    Part(
        "lfm-cw",
        "one LFM-CW step beside the hand-written loop: values, time, memory",
        "lfm_cw_step.py",
        arguments="--size c8l5 --pairs 5 --variants 'first order' central",
        smallest="--size tiny --pairs 2 --variants 'first order' --no-memory",
        limit=110,
    ),
    Part(
        "sgl",
        "one SGL step beside the hand-written loop, and stacked: values, time, memory",
        "sgl_scaling.py",
        arguments="--learners 2 4 --cells 3 --nodes 1 --pairs 4 "
        "--methods mlopt 'mlopt, stacked' hand",
        smallest="--learners 2 --methods mlopt hand --pairs 2 --product first --no-memory "
        "--channels 1 --cells 3 --nodes 1 --image 8 --batch 4",
        limit=70,
    ),
    Part(
        "supernet",
        "a supernet's training step beside the per-edge definition: values, time, memory",
        "supernet.py",
        arguments="--space darts pc-darts --pairs 7",
        smallest="--pairs 2 --no-memory --channels 4 --layers 3 --nodes 2 --batch 4 --image 8",
        limit=40,
    ),
    Part(
        "formats",
        "bfloat16, channels-last, TF32: time, memory, and what they leave of a hypergradient",
        "formats.py",
        arguments="--pairs 5",
        smallest="--formats float32 bfloat16 --size tiny --precision-size tiny --pairs 2 "
        "--products 'first order' exact",
        limit=50,
    ),
    Part(
        "precision",
        "what bf16 and fp16 leave of a hypergradient, for each product",
        "precision.py",
        arguments="--seeds 1",
        smallest="--seeds 1 --steps 1 --networks 'MLP, tanh' --methods 'OneStep, Exact'",
        limit=90,
        timed=False,
    ),
    Part(
        "memory",
        "memory and time of a step with each method",
        "step_memory.py",
        arguments="--size small --pairs 3",
        smallest="--size tiny --pairs 2 --methods Frozen 'OneStep, exact'",
        limit=70,
    ),
    Part(
        "parts",
        "memory and time of a step of LFM-CW with its batches whole and in parts",
        "parts_memory.py",
        arguments="--size quick --variants 'first order' --pairs 1",
        smallest="--size tiny --batch 8 --parts 2 --variants 'first order'",
        limit=45,
    ),
    Part(
        "unrolled-memory",
        "memory of an unrolled hypergradient, stored or recomputed",
        "unroll_memory.py",
        arguments="--steps 10 100 1000",
        smallest="--steps 10",
        limit=30,
    ),
    Part(
        "searches",
        "the examples from the loader to the report, in bfloat16 and channels-last",
        "device_searches.py",
        smallest="--examples darts --smallest",
        limit=150,
        timed=False,
    ),
    Part(
        "tests",
        "the tests that compute, on the device",
        "device_tests.py",
        arguments="--limit {limit} --without tests/distributed",
        smallest="tests/solvers/test_dense.py --limit {limit}",
        limit=150,
        timed=False,
    ),
    Part(
        "ranks",
        "ranks of gloo that share the device, and one of NCCL: the rank law, agreement, faults",
        "device_tests.py",
        arguments="tests/distributed --workers 12 --limit {limit}",
        smallest="tests/distributed/test_nccl.py tests/distributed/test_agreement.py "
        "--limit {limit}",
        limit=150,
        timed=False,
    ),
)
BUDGET = 570.0


def listed() -> str:
    rows = [
        {"part": p.name, "what it shows": p.shows, "limit, s": p.limit, "file": p.file}
        for p in PARTS
    ]
    return format_table(rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="the parts, and nothing is run")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu: the smallest")
    parser.add_argument("--out", type=Path, help="folder of the files")
    parser.add_argument("--budget", type=float, help=f"seconds of the whole (on a GPU: {BUDGET})")
    options = parser.parse_args(arguments)
    on_the_cpu = options.device == "cpu"
    if options.out is None:  # the results of a GPU are not overwritten by those of a CPU
        options.out = Path("runs/gpu-on-the-cpu" if on_the_cpu else "benchmarks/results/gpu")
    if options.budget is None:
        options.budget = math.inf if on_the_cpu else BUDGET
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.list:
        print(listed())
        return 0
    if options.device != "cpu" and not torch.cuda.is_available():
        print("no CUDA device here; nothing was run")
        return 0
    parts = [part for part in PARTS if part.name in options.only]
    outcomes = run_parts(parts, options.device, options.out, options.budget)
    text = summary(outcomes, options.device, options.budget)
    (ROOT / options.out / "summary.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    return int(any(outcome.status != "passed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

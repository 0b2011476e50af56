"""Host synchronisations of a step: how often the host waits for the device, by torch's profiler.

The law is one a step: whether everything was finite. A step that is logged reads its numbers
besides, and has no law. Steps are taken inside of an epoch, whose end reads the mean losses.

On a GPU, calls of the CUDA runtime that wait are counted. On the CPU nothing waits: what is counted
are the reads of values that would wait on a GPU: of several with no operation between them the
first, after which all is done. Not those of an optimizer, whose counters of steps are kept on the
host anywhere; and LFM-CW has no law there, since it looks at its labels where that costs nothing.

    python benchmarks/host_synchronisations.py --device cuda
    python benchmarks/host_synchronisations.py --cases "two levels, exact" --output x.md

Ends with status 1 where a law is broken, and says from which functions that step waits.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler is quiet

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from header import header
from host_synchronisation_cases import CASES, Advance
from step_trace import Event, caller, trace

from mlopt.report import format_table

ROOT = Path(__file__).resolve().parents[1]
WARM_UP, STEPS = 3, 4
#: What torch does to give values to the host, and the reads that it leaves no other trace of.
READS = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select"}
MARKED = "read by the host"


def waits(events: list[Event], device: str) -> list[Event]:
    """Those events of a trace in which the host waits for the device, or would on a GPU."""
    if device != "cpu":
        runtime = [e for e in events if e.kind in ("cuda_runtime", "cuda_driver")]
        return [e for e in runtime if e.name.endswith("Synchronize") or e.name == "cudaMemcpy"]
    optimizers = [e for e in events if e.name.startswith("Optimizer.step")]
    reads = [e for e in events if e.name in READS or e.name == MARKED]
    apart = READS | {MARKED, "aten::item"}
    begun = [e.begin for e in events if e.kind == "cpu_op" and e.name not in apart]
    found, done = [], -math.inf
    for read in sorted(reads, key=lambda e: e.begin):
        if not any(read.inside(o) for o in optimizers):
            if not found or any(done < at < read.begin for at in begun):
                found.append(read)
            done = read.end
    return found


def places(advance: Advance, device: str) -> Counter[str]:
    """The Python functions from which a step waits."""
    events = trace(lambda: advance(1), device, MARKED, stacks=True)
    found = (caller(wait, events) or wait.name for wait in waits(events, device))
    return Counter(name.replace(f"{ROOT}{os.sep}", "") for name in found)


def row(name: str, device: str) -> tuple[dict[str, Any], list[str]]:
    """One line of the table, and where a broken law is broken."""
    case = CASES[name]
    advance = case.make(device)
    advance(WARM_UP)
    events = trace(lambda: advance(STEPS), device, MARKED)
    found = waits(events, device)
    law = case.law if device != "cpu" or case.law_on_the_cpu else None
    kinds = Counter(e.name.removeprefix("aten::") for e in found)
    line = {
        "step": name,
        "synchronisations a step": f"{len(found) / STEPS:g}",
        "law": "none" if law is None else f"{law}",
        "by": ", ".join(f"{kind} ({n})" for kind, n in kinds.items()),
    }
    line["kept"] = "-" if law is None else "yes" if len(found) == law * STEPS else "no"
    if line["kept"] != "no":
        return line, []
    return line, [f"{name}: {n} from {place}" for place, n in places(advance, device).items()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    rows, broken = [], []
    for name in options.cases:
        line, where = row(name, options.device)
        print(line, flush=True)
        rows.append(line)
        broken += where
    counted = "reads that would wait on a GPU" if options.device == "cpu" else "waits"
    extra = f"{counted} in {STEPS} steps after {WARM_UP}, by torch's profiler."
    text = f"{header('Host synchronisations a step', options.device, extra)}\n"
    text += f"{format_table(rows, markdown=True)}\n"
    if broken:
        text += "\nIn one step of what breaks the law:\n\n"
        text += "".join(f"- {line}\n" for line in broken)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(any(line["kept"] == "no" for line in rows))


if __name__ == "__main__":
    sys.exit(main())

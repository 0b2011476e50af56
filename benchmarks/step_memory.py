"""Memory and time of one step of DARTS with each method.

A method that raises has a row that says what, and the others go on.

    python benchmarks/step_memory.py --device cuda
    python benchmarks/step_memory.py --size tiny --methods Frozen Sama --pairs 2

Memory is that of tensors, allocated beyond what was there before the step: by the device's
allocator, or by torch's profiler on the CPU. Ends with status 1 if a method has raised.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts bytes here, and is quiet

import argparse
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

from darts_graph import PRODUCTS, SIZES, Darts, Size
from header import header
from memory import peak_kib
from timing import rounds

import mlopt
from mlopt.report import format_table

INNER = 3  # steps that are unrolled, and of the solvers
MOST_SAID = 500  # characters of an error


def implicit(solver: Any) -> mlopt.Implicit:
    """Far from an optimum the Hessian is not positive definite; this curvature is."""
    return mlopt.Implicit(solver, curvature=mlopt.GaussNewton(), damping=1.0)


METHODS: dict[str, Any] = {
    "Frozen": PRODUCTS["first order"],
    "OneStep, exact": PRODUCTS["exact"],
    "OneStep, central": PRODUCTS["central"],
    "OneStep, one-sided": PRODUCTS["one-sided"],
    "Sama": mlopt.Sama(),
    f"Unrolled({INNER})": mlopt.Unrolled(INNER),
    f"Unrolled({INNER}), recompute": mlopt.Unrolled(INNER, recompute=True),
    "Implicit, CG": implicit(mlopt.CG(max_steps=INNER)),
    "Implicit, Neumann": implicit(mlopt.Neumann(steps=INNER)),
    "Implicit, Nystrom": implicit(mlopt.Nystrom(rank=INNER)),
    "ZerothOrder": mlopt.ZerothOrder(samples=INNER),
}


def measure(name: str, size: Size, device: str, pairs: int) -> dict[str, Any]:
    """A method's row."""
    engine, _ = Darts(size, device, adam=name == "Sama").engine(METHODS[name])
    times = rounds({name: engine.step}, pairs, device)[name]
    return {
        "method": name,
        "evaluations": engine.plan().evaluations,
        "MiB": round(peak_kib(engine.step, device) / 2**10, 1),
        "ms": 1e3 * statistics.median(times),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="darts")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--pairs", type=int, default=3, help="steps that are timed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # solvers of a few steps do not converge
    rows, failures = [], []
    for name in options.methods:
        try:
            rows.append(measure(name, SIZES[options.size], options.device, options.pairs))
        except Exception as error:  # out of memory, say, is a result
            failures.append(f"{name}: {type(error).__name__}: {error}"[:MOST_SAID])
            rows.append({"method": name})
        print(rows[-1], flush=True)
    extra = f"float32; the median of {options.pairs} steps. MiB: beyond what was there before."
    text = f"{header('A step with each method', options.device, extra)}\n"
    text += f"{SIZES[options.size]}\n\n{format_table(rows, markdown=True)}\n"
    text += "".join(f"\nError: {failure}\n" for failure in failures)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())

"""Cost against depth: the ladder of `depth_ladder.py`, by mlopt and by Betty 0.2.1.

mlopt visits every problem once going up and once coming down, so that a step needs 2 D + 2
evaluations and, with central differences, 2 (2 D + 1) more. Betty differentiates every path by
itself, and there are 2^D of them, so it is left out above 8 layers. Making the engine, its plan and
one hypergradient takes time in proportion to the edges as well.

    python benchmarks/depth_scaling.py
    python benchmarks/depth_scaling.py --depths 2 4 --pairs 5 --output x.md

With --output x.md the chart becomes x.svg. Betty is left out with a message where it is not
installed:
    pip install --ignore-requires-python --no-deps betty-ml==0.2.1
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from pathlib import Path
from typing import Any

from depth_ladder import Ladder, betty_ladder, ladder_engine
from header import header
from scaling_chart import chart
from timing import ratio, rounds

from mlopt.report import format_table

Row = dict[str, Any]

DEPTHS = (*range(2, 9), 16, 32, 64, 128, 256, 512)
BETTY = 8  # layers, at most


def measure(depth: int, size: int, count: int, device: str) -> Row:
    """One row: evaluations of the objectives in a step, and its time."""
    ours, theirs = Ladder(depth, size, device), Ladder(depth, size, device)
    began = time.process_time()
    engine, problems = ladder_engine(ours)
    planned = engine.plan().evaluations
    made = time.process_time()
    engine.hypergradient(problems["top"])
    differentiated = time.process_time()
    steps = {"mlopt": lambda: engine.step() and None}
    row: Row = {"layers": depth, "problems": len(ours.names), "edges": ours.edges}
    row["paths"] = 2**depth if depth <= BETTY else f"2^{depth}"
    betty = betty_ladder(theirs) if depth <= BETTY else None
    if betty is not None:
        steps["Betty"], paths = betty
        assert paths == row["paths"]
    row["plan, mlopt"] = planned
    row["engine and plan, ms"] = 1e3 * (made - began)
    row["hypergradient, ms"] = 1e3 * (differentiated - made)
    for name, ladder in (("mlopt", ours), ("Betty", theirs)):
        if name in steps:
            steps[name]()  # what only the first step does is not counted
            ladder.evaluations = 0
            steps[name]()
            row[f"evaluations, {name}"] = ladder.evaluations
    times = rounds(steps, count, device) if count else {}
    row |= {f"{n}, ms": 1e3 * statistics.median(t) for n, t in times.items()}
    if "Betty" in times and count > 1:
        row["Betty / mlopt"] = ratio(times["Betty"], times["mlopt"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--size", type=int, default=32, help="numbers of a variable")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.disable(logging.INFO)  # Betty reports every path
    if betty_ladder(Ladder(1, 2)) is None:
        print("Betty is left out: it is not installed.")
    rows = []
    for depth in options.depths:
        rows.append(measure(depth, options.size, options.pairs, options.device))
        print(rows[-1], flush=True)
    extra = f"{options.pairs} rounds of all contestants in turn. Ratios: median [quartiles]."
    text = header("Cost against depth", options.device, extra)
    text += (
        f"\nA ladder of problems over {options.size} numbers each: evaluations of objectives, and "
        "time, of one step. mlopt: OneStep by central differences. Betty: type darts.\n\n"
        f"{format_table(rows, markdown=True)}\n"
    )
    if options.output:
        path = options.output.with_suffix(".svg")
        panels = {
            label: {n: values(rows, key.format(n)) for n in ("mlopt", "Betty")}
            for label, key in (
                ("evaluations in a step", "evaluations, {}"),
                ("ms a step", "{}, ms"),
            )
        }
        if chart(panels, "layers", path):
            text += f"\n![Evaluations and time against depth]({path.name})\n"
        options.output.write_text(text, encoding="utf-8")
    print(text)


def values(rows: list[Row], key: str) -> list[tuple[float, float]]:
    return [(row["layers"], row[key]) for row in rows if key in row]


if __name__ == "__main__":
    main()

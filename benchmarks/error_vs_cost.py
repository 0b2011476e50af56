"""Hypergradients: their error against what they cost, for mlopt and for other libraries.

Every method is asked for the hypergradient of a problem that is small enough to know the answer:
see `error_vs_cost_problems.py`. The methods are those of `peers/`; a library that is not installed
is left out with a message, and how to install the others is written in `peers/__init__.py`.

    python benchmarks/error_vs_cost.py
    python benchmarks/error_vs_cost.py --problem smooth --rounds 5 --output x.md

With --output x.md the chart becomes x.svg. Times are taken in alternated rounds: a ratio holds on a
noisy machine, a time does not.
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts bytes here, and is quiet

import argparse
import dataclasses
import importlib
import importlib.metadata
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import error_vs_cost_problems as problems
import torch
from header import header
from memory import peak_kib
from peers import KINDS, Method, Options
from timing import rounds
from torch import Tensor

from mlopt.report import format_table

Row = dict[str, Any]

DISTRIBUTIONS = {
    "mlopt": None,
    "betty": "betty-ml",
    "torchopt": "torchopt",
    "higher": "higher",
    "boat": "boat-torch",
}
# Methods that start from the warm point; the others are asked at the optimum.
UNROLLED = "sgd", "adam", "adam raw eps", "one sgd step", "last adam step"
IMPLICIT_STEPS, UNROLLED_STEPS = (5, 20, 80), (1, 5, 20, 100)
VALUES = {"samples": (8, 128, 1024), "weight": (10.0, 100.0, 1000.0)}
COLUMNS = {
    "kind": "kind", "library": "library", "method": "method", "K": "K",
    "error": "error", "cosine": "cosine", "own": "own error",
    "forwards": "forward", "backwards": "backward", "ms": "ms", "KiB": "KiB",
}  # fmt: skip
NOTES = """\
Relative errors: `error` is the distance to the hypergradient at the lower optimum (from the dense
Hessian), with the cosine to it; `own error` is the distance to what the method's own formula gives
in exact arithmetic, by a few lines of plain autograd for each kind. The kinds down to "identity"
and "penalty" are asked at the lower optimum; the others start from the optimum of an earlier r, and
are far from the truth where the steps are too few, whoever makes them. K: steps of the solver or of
the unrolling, rank (nystrom), samples (ZerothOrder), or weight (F2SA, whose two copies stand at
their minima, found beforehand and not counted: its error is the method's bias). CG's own formula is
only good to what rounding leaves of it: on an ill-conditioned problem any two runs part.

`forward` counts evaluations of the lower objective, `backward` backward passes of any kind, without
what a library does once when its objects are built; a batched (vmap) backward pass counts as one,
as in TorchOpt's dense solver. KiB: most tensor memory allocated at a time
beyond what was there before the call. ms: median.

BOAT's IGA divides by the square of the lower gradient, which is zero where it is asked here: what
it gives is no fault of its code. What a library raised stands below its table.
"""


def own_truth(problem: problems.Problem, kind: str, options: Options) -> Tensor | None:
    """What a method of this kind gives at the problem's point in exact arithmetic, where known."""
    k, step, w = options.iterations, options.step_size, problem.w
    if kind == "nystrom":  # its directions are its own
        return None
    if kind == "penalty":
        return problems.penalised_truth(problem, options.weight)
    if kind == "one sgd step":
        return problems.unrolled_truth(problem, w, 1, step)
    if kind == "last adam step":
        return problems.unrolled_truth(problem, w, k, options.adam_lr, "adam", truncate=1)
    if kind in UNROLLED:
        lr = step if kind == "sgd" else options.adam_lr
        return problems.unrolled_truth(problem, w, k, lr, kind)
    solve: Any = {
        "dense": torch.linalg.solve,
        "identity": problems.identity,
        "neumann": problems.neumann(k + 1, step),
        "cg": problems.conjugate_gradient(k),
        "damped cg": problems.damped(options.damping, problems.conjugate_gradient(k)),
    }[kind]
    return problem.dense_hypergradient(solve)


def settings(method: Method, options: Options) -> Iterator[Options]:
    """The options at which a method is asked."""
    if method.varies is None:
        yield options
        return
    steps = UNROLLED_STEPS if method.kind in UNROLLED else IMPLICIT_STEPS
    for value in VALUES.get(method.varies, steps):
        yield dataclasses.replace(options, **{method.varies: value})


def measure(
    method: Method, problem: problems.Problem, options: Options
) -> tuple[Row, Callable[[], Tensor]]:
    """A row without its time, and the call to be timed; whatever a library raises is raised."""
    truth = problem.dense_hypergradient()
    point = problem.start() if method.kind in UNROLLED else problem
    with problems.counted(point) as (counting, counts):
        call = method.prepare(counting, options)
        call()
        counts.forwards = counts.backwards = 0
        found = call().detach()
    row: Row = {"kind": method.kind, "library": method.library, "method": method.name}
    row["K"] = None if method.varies is None else round(getattr(options, method.varies))
    row["error"], row["own"] = distance(found, truth), None
    row["cosine"] = torch.cosine_similarity(found, truth, dim=0).item()
    own = own_truth(point, method.kind, options)
    if own is not None:
        row["own"] = distance(found, own)
    row["forwards"], row["backwards"] = counts.forwards, counts.backwards
    call = method.prepare(point, options)
    call()
    row["KiB"] = peak_kib(call, str(point.w.device.type))
    return row, call


def distance(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


def compare(
    problem: problems.Problem, methods: list[Method], count: int
) -> tuple[list[Row], list[str]]:
    """The rows of one problem, and what failed."""
    options = Options(step_size=1 / problem.curvature()[1])
    rows, calls, failures = [], {}, []
    for method in sorted(methods, key=lambda m: (KINDS.index(m.kind), m.library != "mlopt")):
        try:
            measured = [measure(method, problem, o) for o in settings(method, options)]
        except Exception as error:  # whatever a library raises is a result
            failures.append(f"{method.library} {method.name}: {type(error).__name__}: {error}")
            continue
        for row, call in measured:
            calls[f"{len(rows)}"] = call
            rows.append(row)
    times = rounds(calls, count, problem.w.device.type) if count else {}
    for i, row in enumerate(rows):
        row["ms"] = 1e3 * statistics.median(times[f"{i}"]) if count else None
    return rows, failures


def libraries() -> tuple[list[Method], list[str]]:
    """The methods of all libraries that are installed, and what those are."""
    methods: list[Method] = []
    versions = []
    for library, distribution in DISTRIBUTIONS.items():
        try:
            methods += importlib.import_module(f"peers.{library}_peer").METHODS
        except ImportError as error:
            print(f"{library} is left out: {error}")
            continue
        if distribution is not None:
            versions.append(f"{distribution} {importlib.metadata.version(distribution)}")
    return methods, versions


def shown(row: Row) -> Row:
    """A row as the table shows it: small numbers by their exponent."""
    texts = {k: f"{row[k]:.1e}" for k in ("error", "own") if row[k] is not None}
    return {**row, **texts, "cosine": f"{row['cosine']:.4f}", "KiB": round(row["KiB"])}


def draw(tables: dict[str, list[Row]], path: Path) -> None:
    """Error against passes: a colour for each kind, a marker for each library."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        print(f"No chart: {error}")
        return
    palette = [f"C{i}" for i in range(10)]
    colours: dict[str, str] = dict(zip(KINDS, palette, strict=False))
    colours.update(zip(KINDS[10:], ("black", "goldenrod"), strict=False))
    marks = {"mlopt": "o", "Betty": "^", "TorchOpt": "s", "higher": "D", "BOAT": "v"}
    figure = Figure(figsize=(5 * len(tables) + 2, 7), layout="constrained")
    for axes, (name, rows) in zip(
        figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True
    ):
        lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
        for row in rows:
            passes = row["forwards"] + row["backwards"]
            lines.setdefault((row["library"], row["method"], row["kind"]), []).append(
                (passes, min(max(row["error"], 1e-10), 100.0))
            )
        for (library, _, kind), points in lines.items():
            ours = library == "mlopt"
            axes.loglog(
                *zip(*points, strict=True), marker=marks[library], color=colours[kind],
                linewidth=0.8 if ours else 0.4, markersize=8 if ours else 4,
                fillstyle="none" if ours else "full",
            )  # fmt: skip
        axes.set(title=name, ylim=(5e-11, 200.0), xlabel="forward and backward passes")
        axes.set_ylabel("relative error (1e-10 and 100: or beyond)")
        axes.grid(linewidth=0.3)
    present = {(row["kind"], row["library"]) for rows in tables.values() for row in rows}
    handles = [
        Line2D([], [], color=colour, label=kind)
        for kind, colour in colours.items()
        if any(kind == k for k, _ in present)
    ] + [
        Line2D([], [], color="gray", marker=mark, linestyle="none", label=library,
               fillstyle="none" if library == "mlopt" else "full")
        for library, mark in marks.items()
        if any(library == m for _, m in present)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right upper", fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "mlopt"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problem", choices=("smooth", "network", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--note", default="", help="added to the header, as what else was running")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    methods, versions = libraries()
    extra = f"{arguments.rounds} rounds of all contestants in turn. "
    extra += f"Beside mlopt: {', '.join(versions) or 'no other library'}."
    text = header("Hypergradients: error against cost", arguments.device, extra)
    text += f"\n{arguments.note}\n" if arguments.note else ""
    text += f"\n{NOTES}"
    names = ("smooth", "network") if arguments.problem == "both" else (arguments.problem,)
    tables = {}
    for name in names:
        problem = getattr(problems, name)(arguments.seed).to(arguments.device)
        tables[name], failures = compare(problem, methods, arguments.rounds)
        low, high = problem.curvature()
        text += (
            f"\n## {name}\n\n{len(problem.w)} lower and {len(problem.r)} upper parameters; "
            f"curvature at the optimum {low:.1e} to {high:.1e}; learning rate and scale "
            f"{1 / high:.3g}, of Adam {Options.adam_lr}; damping {Options.damping}, "
            f"of Nystrom {Options.nystrom_damping}; radius "
            f"{Options.radius}.\n\n"
            f"{format_table([shown(row) for row in tables[name]], COLUMNS, markdown=True)}\n"
        )
        text += "".join(f"\n{failure}\n" for failure in failures)
    if arguments.output:
        chart = arguments.output.with_suffix(".svg")
        draw(tables, chart)
        if chart.exists():
            text += f"\n![Error against passes]({chart.name})\n"
        arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

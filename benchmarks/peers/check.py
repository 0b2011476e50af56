"""Every method of every installed library, against the dense answer and against its own formula.

    python benchmarks/peers/check.py --iterations 20 --problem smooth --seed 0

'error' is the relative distance to the hypergradient at the lower optimum, and 'own' the one to
what the method's formula gives in exact arithmetic (for the unrolled methods, which start from the
warm point, a hand-written unrolling). An 'own' far from zero is a finding about the library or its
adapter. 'F' counts evaluations of the lower objective, 'backward' all backward passes.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import error_vs_cost_problems as problems
from error_vs_cost import UNROLLED, own_truth

from peers import Method, Options

LIBRARIES = ("mlopt", "betty", "torchopt", "higher", "boat")
COLUMNS = "library", "method", "kind", "error", "cosine", "own", "F", "backward", "ms"
FORMAT = "{:9} {:23} {:14} {:>8} {:>7} {:>8} {:>4} {:>8} {:>8}"


def row(
    method: Method, problem: problems.Problem, options: Options, warm: bool, repeats: int
) -> list[str]:
    """The printed cells of one method."""
    truth = problem.dense_hypergradient()
    point = problem.start() if warm or method.kind in UNROLLED else problem
    own = own_truth(point, method.kind, options)
    try:
        with problems.counted(point) as (counting, counts):
            found = method.prepare(counting, options)()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            method.prepare(point, options)()
            times.append(time.perf_counter() - start)
    except Exception as error:  # whatever a library raises is its row
        return [method.library, method.name, f"{type(error).__name__}: {error}"]
    cosine = torch.cosine_similarity(found, truth, dim=0).item()
    distances = [f"{((found - t).norm() / t.norm()).item():.1e}" for t in (truth, own)]
    cells = [distances[0], f"{cosine:.4f}", distances[1], counts.forwards, counts.backwards]
    return [method.library, method.name, method.kind, *map(str, cells), f"{min(times) * 1e3:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--problem", choices=("smooth", "network", "both"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true", help="the implicit ones too, from there")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    methods: list[Method] = []
    for library in LIBRARIES:
        try:
            methods += importlib.import_module(f"peers.{library}_peer").METHODS
        except ImportError as error:
            print(f"{library} is left out: {error}")
    names = ("smooth", "network") if arguments.problem == "both" else (arguments.problem,)
    for name in names:
        problem = getattr(problems, name)(arguments.seed)
        low, high = problem.curvature()
        options = Options(iterations=arguments.iterations, step_size=1 / high)
        print(f"\n{name}: seed {arguments.seed}, curvature {low:.1e} to {high:.1e}, {options}")
        print(FORMAT.format(*COLUMNS))
        for method in methods:
            cells = row(method, problem, options, arguments.warm, arguments.repeats)
            print(FORMAT.format(*cells) if len(cells) == len(COLUMNS) else "  ".join(cells))


if __name__ == "__main__":
    main()

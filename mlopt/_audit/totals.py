"""Whole hypergradients against differences of the upper objective's values."""

from __future__ import annotations

from dataclasses import replace

import torch

from .._graph.problem import Problem
from .._tensors import Tensors
from ..hypergrad import Implicit
from .differences import differentiate, floor, share
from .findings import Finding
from .kinks import kinked
from .optima import NoOracle
from .run import Run
from .solutions import unwrapped
from .study import LARGE, Study, line
from .values import Frame, Values
from .vectors import compare, directions, displaced, flat

__all__ = ["compare_total"]


def compare_total(
    study: Study, values: Values, problem: Problem, made: Run, native: Run, edges: float
) -> None:
    """The row of one upper problem's hypergradient.

        < dF/dx , d >    against   [F(x + h d) - F(x - h d)] / 2h,  for random d

    Args:
        study: takes the row.
        values: at the run's batches.
        problem: the upper problem.
        made: its hypergradient, to be compared.
        native: the same as a step computes it, for what it takes.
        edges: the largest error of the edges below it.
    """
    label, x = study.label(problem), values.standing(problem)
    reached = values.depends.reached(problem)
    below = [n for n in reached if isinstance(n, Problem)]
    solved = any(
        isinstance(unwrapped(study.graph.methods[p]), Implicit) and values.depends.moving(p)
        for p in below
        if p is not problem
    )
    values.begin(settles=True)

    def objective(moved: Tensors) -> float:
        value = float(values.objective(Frame(values, problem, moved))[0].detach())
        study.evaluator.release()
        return value

    row = Finding(
        "total", label, "sweep", "re-solved" if solved else "differences", None,
        took=native.took, backwards=native.backwards,
    )  # fmt: skip
    pairs, spread, unsure = [], 0.0, 0.0
    try:
        least = floor(study.double, max(1.0, abs(objective(x))))
        for d in directions(x, study.directions, study.seed):
            slope = differentiate(study.double, lambda h, d=d: objective(displaced(x, d, h)))
            ours = float((flat(made.gradient, x) * flat(d, x)).sum())
            pairs.append((ours, slope.value))
            spread, unsure = max(spread, slope.spread), max(unsure, slope.unsure)
    except (NoOracle, RuntimeError) as error:
        study.findings.append(row)
        study.texts.append(f"{label}: not compared: {line(error)}.")
        return
    ours, oracle = torch.tensor(pairs, dtype=torch.float64).T
    error, cosine, ratio = compare(ours, oracle, least)
    study.findings.append(replace(row, error=error, cosine=cosine, ratio=ratio))
    size, seen = float(oracle.norm()), 1e-6 if study.double else share(False)
    smooth = not any(kinked(values, p, problem) for p in below)
    if not study.bent.isdisjoint(reached):
        return  # which has been said
    if not smooth and (error > LARGE or spread > 0.02 * size):
        study.kinked.append(label)
    elif error > seen and not unsure <= min(error, 1.0) * max(size, least) / 10:
        study.texts.append(
            f"{label}: the differences themselves are off by about {unsure:.1e}: the objective "
            "changes too fast, or jumps, within the smallest radius. The row says nothing."
        )
    elif error > share(study.double) and edges < error / 10:
        why = (
            "the lower problem is not where it would be solved (see the warnings about its "
            "optimum), it is damped, its objective has several optima, or "
            if solved
            else ""
        )
        study.texts.append(
            f"{label}: the whole is off by {error:.1e}, which no edge shows: {why}the graph "
            "or the sweep drops a term or feeds it to the wrong read, or a function detaches "
            "what it reads (detach, no_grad, .data, item)."
        )

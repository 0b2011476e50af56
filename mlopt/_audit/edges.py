"""The pullbacks of one lower problem against the reference, argument by argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .._graph.problem import Problem
from .._tensors import Tensors
from ..hypergrad import Implicit
from ..hypergrad.products import Central, OneSided
from .differences import Slope, floor
from .equilibria import conditions, solved_with
from .findings import Finding
from .kinks import kinked
from .optima import NoOracle, inverse
from .probe import Probe
from .reference import by_autograd, by_differences, part, reading_frame
from .solutions import unwrapped
from .study import LARGE, Study, line
from .values import Frame, Values
from .vectors import compare, flat

__all__ = ["compare_edges"]

_FAR = 1e-3  # a Newton step, relative to w


def compare_edges(
    study: Study, values: Values, lower: Problem, upper: Problem, probe: Probe
) -> None:
    """The rows of one lower problem's edges that have none yet.

        pullback(c)[r]   against   (ds/dr)^T c,  for random c

    Args:
        study: takes the rows.
        values: at the run's batches.
        lower: the lower problem.
        upper: whose hypergradient was run.
        probe: what was heard of the lower problem's method.
    """
    players = solved_with(values, lower)
    if len(players) > 1:  # pulled back as one: the total tells
        if players not in study.settled and lower in values.depends.reached(upper):
            study.settled.add(players)
            _say_distance(study, values, players, reading_frame(values, lower, upper))
        return
    keys = [k for k in probe.keys if (lower, k[0]) not in study.seen]
    if not keys:
        return
    between = values.depends.chain(lower, upper)[1:]
    if any(study.graph.games.get(p) and study.graph.methods[p].traced for p in between):
        return  # the moves of a game asked for it, from where its players were then
    label, inner = study.graph.labels[lower], unwrapped(study.graph.methods[lower])
    frame = reading_frame(values, lower, upper)
    point = {k: part(frame, k) for k in keys}
    exact: list[Tensors] | None = None
    try:
        if lower not in study.shallow:
            exact = by_autograd(study, values, lower, frame, point, probe.cotangents)
    except (NoOracle, RuntimeError) as error:
        study.texts.append(f"{label}: no exact product to compare with ({line(error)}).")
    bent = kinked(values, lower, upper)
    worst, holds = 0.0, True
    for i, source in enumerate(dict.fromkeys(k[0] for k in keys)):
        study.seen.add((lower, source))
        mine = {k: t for k, t in point.items() if k[0] is source}
        name = study.label(lower, source)
        slopes: list[tuple[torch.Tensor, Slope]] = []
        try:
            slopes = by_differences(
                study, values, lower, frame, mine, probe.cotangents[0],
                count=study.directions if exact is None else 1, seed=study.seed + 1 + i,
            )  # fmt: skip
        except (NoOracle, RuntimeError) as error:
            if exact is None:
                study.texts.append(f"{name}: not compared: {line(error)}.")
        off = _refuted(exact, mine, slopes)
        row = _compare(study, lower, name, mine, probe, None if off and not bent else exact, slopes)
        study.findings.append(row)
        if bent:
            if off or (row.error or 0.0) > LARGE or _spread(slopes) > 0.02:
                study.kinked.append(name)
        elif off and (row.error or 0.0) > 1e-3 and lower not in study.bent:
            study.texts.append(
                f"{name}: double backward and differences of the solution disagree by {off:.1e}, "
                "and no kinked operation is there to explain it. The row is against differences."
            )
        holds = holds and not off
        worst = max(worst, row.error or 0.0)
    if isinstance(inner, Implicit):
        _say_distance(study, values, players, frame)
        if worst > 1e-3 and not bent and lower not in study.bent:
            study.texts.append(
                f"{label}: the pullback is off by {worst:.1e} from that of a linear system "
                "that is solved to the end: give the solver more steps or a smaller tol, or "
                "damp the system."
            )
    product = getattr(inner, "product", None)
    far = isinstance(product, Central | OneSided) and worst > LARGE and not bent
    far = far and lower not in study.bent and lower not in study.evaluator.narrow
    if far and exact is not None and holds:
        study.radii.append((lower, upper, product, exact, keys, worst))


def _compare(
    study: Study,
    lower: Problem,
    name: str,
    point: Tensors,
    probe: Probe,
    exact: list[Tensors] | None,
    slopes: list[tuple[torch.Tensor, Slope]],
) -> Finding:
    """The row of one edge: against the exact product where there is one, else against slopes."""
    method = study.graph.methods[lower]
    how, found = "exact", (None, None, None)
    if exact is not None:
        ours = torch.cat([flat(f, point) for f in probe.found])
        found = compare(ours, torch.cat([flat(e, point) for e in exact]))
    else:
        how = "re-solved" if isinstance(unwrapped(method), Implicit) else "differences"
        if slopes:
            ours = [float((flat(probe.found[0], point) * d).sum()) for d, _ in slopes]
            oracle = [s.value for _, s in slopes]
            a, b = torch.tensor([ours, oracle], dtype=torch.float64)
            found = compare(a, b, floor(study.double, max(s.scale for _, s in slopes)))
    took = replace(
        probe.took,
        milliseconds=probe.took.milliseconds / study.cotangents,
        evaluations=probe.took.evaluations // study.cotangents,
    )
    return Finding(
        "edge", name, str(probe.probed), how, *found, took, method.cost_of(probe.size).backwards
    )


def _spread(slopes: list[tuple[torch.Tensor, Slope]]) -> float:
    """How much slopes depend on their radius, relative to them."""
    return max((s.spread / (abs(s.value) + s.floor) for _, s in slopes), default=0.0)


def _refuted(exact: Any, point: Tensors, slopes: list[tuple[torch.Tensor, Slope]]) -> float:
    """By how much differences of the solution contradict its double backward; 0.0 if they agree."""
    if exact is None:
        return 0.0
    vector = flat(exact[0], point)
    size = float(vector.norm()) / math.sqrt(len(vector))
    off = 0.0
    for d, s in slopes:
        error = abs(float((vector * d).sum()) - s.value)
        if error > s.blur(size) + 2 * s.unsure:
            off = max(off, error / max(size, abs(s.value), s.floor))
    return off


def _say_distance(study: Study, values: Values, players: Sequence[Problem], frame: Frame) -> None:
    """How far standing values are from the optimum that `Implicit` takes them for."""
    label = " and ".join(study.graph.labels[p] for p in players)
    standing = {k: t for p in players for k, t in values.standing(p).items()}
    w, g = conditions(values, players, standing, frame, 1)
    slope = flat(g, w).detach()
    try:
        solve = inverse(w, g, label, study.dense_limit, symmetric=len(players) == 1)
        step = solve(slope)
    except (NoOracle, RuntimeError) as error:
        study.texts.append(
            f"{label}: how far it is from its optimum is not known ({line(error)}); the length of "
            f"dF/dw is {float(slope.norm()):.1e}."
        )
        return
    far = float(step.norm()) / (float(flat(w, w).detach().norm()) + 1e-300)
    if far > _FAR:
        study.texts.append(
            f"{label}: Implicit takes its standing value for the optimum, which is another "
            f"{far:.1e} of its length away (Newton's step |H^-1 dF/dw| / |w|; |dF/dw| = "
            f"{float(slope.norm()):.1e}); the hypergradient is off by about as much. Make more "
            "lower steps before each upper one (Alternate((lower, n), (upper, 1)) with a larger "
            "n), or take Unrolled."
        )

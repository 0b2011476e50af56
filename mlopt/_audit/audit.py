"""`audit` itself: every upper problem in turn, in float64 where the functions allow it."""

from __future__ import annotations

import warnings

import torch

from .._arguments import a_seed, checked, from_one, from_zero
from .._engine.engine import Engine
from .._engine.turns import in_turn
from .._errors import MloptError, SettingsError, exhausted
from .._evaluation.causes import Gathered
from .._graph.node import Node
from .._graph.problem import Problem
from .casts import casts, coarsest
from .edges import compare_edges
from .findings import Audit, Finding
from .kinks import WARNING
from .precision import is_narrow, widened
from .probe import probed
from .radii import try_radii
from .reads import compare_reads
from .repeat import repeat
from .run import Run, run, unchanged
from .second import compare_second
from .study import LARGE, Study, line
from .totals import compare_total
from .vectors import compare, flat

__all__ = ["audit"]


@checked(
    SettingsError,
    directions=from_one,
    cotangents=from_one,
    seed=a_seed,
    dense_limit=from_zero,
)
def audit(
    engine: Engine,
    *,
    directions: int = 3,
    cotangents: int = 1,
    seed: int = 0,
    dense_limit: int = 2000,
) -> Audit:
    """Compare every pullback and every hypergradient of an engine with independent oracles.

    At the current point and the next step's batches. Nothing is stepped, drawn or changed.

        edges:    pullback(c)[r]   against   (ds/dr)^T c,  for random c
        totals:   < dF/dx , d >    against   [F(x + h d) - F(x - h d)] / 2h,  for random d

    Both are computed in float64, in which the user's tensors are held for a while. (ds/dr)^T c
    comes from plain autograd through the solution's definition (through a dense solve for
    `Implicit`), or, where that cannot be differentiated, from differences of the solution. F is
    the upper objective of values alone: every lower solution is computed anew at the displaced x,
    and for `Implicit` the lower problem is minimised anew. An error of a total that no edge shows
    is one of the graph: a dropped term, a transposed read.

    What the functions do is looked at as well, all at once: by the first check of a run, of which
    nothing is raised here, and by comparing each function's gradients and second derivatives with
    differences of its values and gradients. The faults are `causes` of the report. If a step would
    refuse to begin because of one of them, nothing is compared.

    Each direction and each edge evaluates the levels it needs eight times over. Do not use it on
    batches of training size where small ones tell the same. What a function changes around it is
    put back as well: names, attributes, containers, generators and small tensors that it reaches by
    the names in its code, two objects deep. What it does further away, or to files, cannot be.

    Args:
        engine: as it stands, before or in the middle of training.
        directions: d, for each upper problem.
        cotangents: c, for each lower problem.
        seed: of the directions and cotangents.
        dense_limit: the most numbers of a lower variable for which a matrix is built.

    Returns:
        The findings: `print` them, or `check` them in a test.

    Raises:
        GraphError: it is called by a function of the engine.
        SettingsError: an argument is not what it must be.

    Examples:
        >>> import torch, mlopt
        >>> W, A = (mlopt.Variable(torch.nn.Parameter(torch.ones(2)), n) for n in "wa")
        >>> @mlopt.problem(over=W, given=[A], hypergrad=mlopt.OneStep(lr=0.1))
        ... def lower(w, a):
        ...     return ((w - a.sin()) ** 2).sum()
        >>> @mlopt.problem(over=A, given=[W])
        ... def upper(a, w):
        ...     return (a * w**2).sum()
        >>> audit(mlopt.Engine([lower, upper])).worst < 1e-6
        True
    """
    return _audit(engine, directions, cotangents, seed, dense_limit)


@in_turn("audit()")
def _audit(engine: Engine, directions: int, cotangents: int, seed: int, dense_limit: int) -> Audit:
    if engine._sharded is not None:
        names = " and ".join(sorted(v.name for v in engine._sharded.spread.variables))
        raise SettingsError(
            f"audit: {names} is sharded, and an audit compares whole tensors on one process. Audit "
            "an engine of the same graph whose modules are not sharded (and are small)."
        )
    with unchanged(engine) as put_back, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        heard = Gathered()
        engine._look(heard)
        study = Study(engine, directions, cotangents, seed, dense_limit, heard.causes, put_back)
        if heard.refused:
            precision = "float64"
            for p in _uppers(study):
                study.findings.append(Finding("total", study.label(p), "sweep", "-", None))
        else:
            try:
                precision = compare_all(study)
            finally:
                study.release()
    kinked = [WARNING.format("; ".join(dict.fromkeys(study.kinked)))] if study.kinked else []
    causes = tuple(dict.fromkeys(study.causes))
    texts = [*(c.text for c in causes), *kinked, *study.texts, *(str(w.message) for w in caught)]
    return Audit(tuple(study.findings), tuple(dict.fromkeys(texts)), precision, causes)


def compare_all(study: Study) -> str:
    """Compare everything; the dtype in which that was done."""
    seen: set[Node] = set()
    native = {p: _native(study, p, seen) for p in _uppers(study)}
    with study.evaluator.precision.float32():  # what is compared with has no precision of its own
        return _compare_with(study, native)


def _compare_with(study: Study, native: dict[Problem, Run | Exception]) -> str:
    graph, uppers = study.graph, list(native)
    parameters = [p for v in graph.variables for p in v.parameters()]
    dtypes = {p.dtype for p in parameters}
    narrow = ", ".join(sorted(map(_name, dtypes))) if any(map(is_narrow, dtypes)) else ""
    try:
        with widened(study.engine):
            study.begin(wide=True)
            found: dict[Node, torch.dtype] = {}
            for p in uppers:
                if isinstance(native[p], Run):
                    with run(study.engine, p, study.evaluator, wide=True) as made:
                        found.update(casts(study.values(made), p))  # if it runs in float64 at all
            if found:
                study.begin(True, found)
                study.texts.append(_said_of_casts(study))
            for p in uppers:
                _compare_upper(study, p, native[p], narrow)
        return _name(coarsest(found.values()))
    except Exception as error:  # whatever a function raises that takes no float64
        if not narrow or exhausted(error):
            raise
        study.texts.append(
            f"The functions do not run in float64 ({line(error)}), so all was compared in "
            f"{narrow}: errors below a few percent say nothing. Make constants by the dtype of an "
            "argument (dtype=x.dtype)."
        )
    study.begin(wide=False)
    for p in uppers:
        _compare_upper(study, p, native[p], "")
    return narrow


def _said_of_casts(study: Study) -> str:
    names = " and ".join(study.graph.labels[n] for n in study.graph.nodes if n in study.casts)
    precision = _name(coarsest(study.casts.values()))
    return (
        f"Computed in {precision} even where all that is read is float64: {names} (a cast: "
        f"x.float(), dtype=). So all was compared in {precision}: errors below a few percent say "
        "nothing. Cast to the dtype of an argument (x.to(w.dtype)) to compare in float64."
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _uppers(study: Study) -> list[Problem]:
    """The problems that have a hypergradient."""
    depends = study.depends
    return [p for p in study.graph.problems if p not in depends.dormant and depends.follows(p)]


def _native(study: Study, problem: Problem, seen: set[Node]) -> Run | Exception:
    """The hypergradient as a step computes it, or what it raised."""
    try:
        with run(study.engine, problem, study.evaluator, wide=False) as made:
            values = study.values(made)
            values.settles = False
            repeat(study, values, problem, seen)
            study.evaluator.release()
        return made
    except (MloptError, RuntimeError) as error:
        return error


def _compare_upper(study: Study, problem: Problem, native: Run | Exception, narrow: str) -> None:
    """The rows of one upper problem: its edges, its total, and the rounding of its own dtype."""
    label = study.label(problem)
    if not isinstance(native, Run):
        study.findings.append(Finding("total", label, "sweep", "-", None))
        study.texts.append(f"{label}: the engine itself fails: {line(native)}")
        return
    probes = {p: study.probe(p) for p in study.lowers}
    with (
        probed(study.engine, probes),
        run(study.engine, problem, study.evaluator, wide=study.wide) as made,
    ):
        values = study.values(made)
        compare_reads(study, values, problem)
        for p in study.lowers:
            if p in study.depends.reached(problem) and p is not problem:
                compare_second(study, values, p, problem)
        before = len(study.findings)
        for p, probe in probes.items():
            compare_edges(study, values, p, problem, probe)
        errors = [f.error for f in study.findings[before:] if f.error is not None]
        compare_total(study, values, problem, made, native, max(errors, default=0.0))
        study.evaluator.release()
    if narrow:
        _compare_rounding(study, problem, made, native, narrow)
    while study.radii:
        try_radii(study, *study.radii.pop())


def _compare_rounding(study: Study, problem: Problem, made: Run, native: Run, narrow: str) -> None:
    label = study.label(problem)
    coarse = {
        study.graph.labels[n]: _name(dtype)
        for n, dtype in study.evaluator.narrow.items()
        if n in study.depends.reached(problem)
    }
    found = compare(flat(native.gradient, made.gradient), flat(made.gradient, made.gradient))
    eps = max((torch.finfo(d).eps for d in study.evaluator.narrow.values()), default=0.0)
    if not abs(native.loss - made.loss) <= max(1e-3, 8 * eps) * abs(made.loss) + 1e-6:  # NaN too
        study.texts.append(
            f"{label}: the loss is {native.loss:.6g} in {narrow} and {made.loss:.6g} in "
            "float64: other random numbers are drawn there, so rounding cannot be measured."
        )
        found = (None, None, None)
    elif found[0] > LARGE and coarse:
        computed = " and ".join(f"{where} in {dtype}" for where, dtype in coarse.items())
        text = (
            f"{label}: the hypergradient differs by {found[0]:.1e} from the same in float64, which "
            f"is rounding: {computed} (weights of that dtype, a cast, autocast). Compute in "
            "float32 what is to be differentiated, and take product=Exact()."
        )
        if any(c.kind == "precision" and c.where in coarse for c in study.causes):
            study.texts.append(text)  # the size of what has been said
        else:
            study.cause("precision", problem, text)
    elif found[0] > LARGE:
        study.texts.append(
            f"{label}: in {narrow} the hypergradient differs by {found[0]:.1e} from the same in "
            "float64. With Central or OneSided the radius may be too small for this precision: "
            "enlarge it; with ReLU, units at their kink may fall on either side."
        )
    study.findings.append(Finding("rounding", label, narrow, "float64", *found))

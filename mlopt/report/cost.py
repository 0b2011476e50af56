"""What a run has cost, part by part, beside what the engine planned."""

from __future__ import annotations

from collections.abc import Sequence

from mlopt.report.page import escape, section, table
from mlopt.report.phases import Part, parts
from mlopt.report.positions import number
from mlopt.report.result import MISSING, plain, result_rows
from mlopt.report.run_data import RunData

__all__ = ["cost"]

_MOST_NAMES = 6
_PASSES = "Network passes are calls of a network in the whole search, validation included."
_APART = "Steps that update other problems cost something else, so they stand in rows of their own."
_PLANNED = (
    "An evaluation is one call of an objective or signal. The plan counts evaluations and backward "
    "passes as if each cost the same; where a part takes a greater share of the time than of the "
    "plan, what it evaluates is larger than the average."
)


def cost(runs: Sequence[RunData]) -> str:
    """What each run took: time and memory in all, and each part of the search beside its plan.

    Args:
        runs: the run, and those beside it.

    Returns:
        HTML.
    """
    of_parts = _parts(runs)
    totals = _totals(runs, evaluations="evaluations" not in of_parts)
    return section(
        "Cost",
        _PASSES if "network passes" in totals else "",
        totals,
        of_parts and f"<br><h3>The parts of the search</h3>\n{of_parts}",
    )


def duration(seconds: float | None) -> str | None:
    """A time as a person says it."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _totals(runs: Sequence[RunData], *, evaluations: bool) -> str:
    rows = {str(row["name"]): row for row in result_rows(runs)}
    found = []
    for run in runs:
        row = rows.get(run.name, {})
        searched = number(row.get("search_seconds")) or run.total_seconds("search") or None
        memory = number(row.get("memory_mb")) or _peak_memory(run)
        found.append(
            {
                "": run.name,
                "search": duration(searched),
                "retraining": duration(run.total_seconds("retrain") or None),
                "network passes": plain(row.get("passes")),
                "evaluations in a step of the search": plain(row.get("evaluations"))
                if evaluations
                else None,
                "peak memory, MB": f"{memory:,.0f}" if memory else None,
            }
        )
    return _filled(found)


def _parts(runs: Sequence[RunData]) -> str:
    found: list[dict[str, str | None]] = []
    for run in runs:
        these = parts(run)
        seconds = sum(part.seconds for part in these)
        known = [part.planned for part in these if part.planned is not None]
        planned = sum(known) if len(known) == len(these) else 0.0
        for part in these:
            evaluations, backwards = part.plan or (None, None)
            share = None if not planned or part.planned is None else part.planned / planned
            found.append(
                {
                    "updates of": _names(part, run.name if len(runs) > 1 else ""),
                    "steps": plain(part.steps),
                    "a step takes (median)": duration(part.median),
                    "evaluations in a step, planned": plain(evaluations),
                    "backward passes, planned": plain(backwards),
                    "network passes in a step": plain(part.passes),
                    "share of the plan": _percent(share),
                    "share of the time": _percent(part.seconds / seconds if seconds else None),
                }
            )
    made = _filled(found)
    how = f"{_APART} {_PLANNED}" if "planned" in made else _APART
    return f'<p class="how">{escape(how)}</p>\n{made}' if made else ""


def _filled(rows: Sequence[dict[str, str | None]]) -> str:
    """A table of the columns that have something in some row; nothing with the first one alone."""
    first, *others = rows[0] if rows else ("",)
    heads = [h for h in others if any(row[h] not in (None, MISSING) for row in rows)]
    body = [[row[head] or MISSING for head in (first, *heads)] for row in rows]
    return table([first, *heads], body) if heads else ""


def _names(part: Part, run: str) -> str:
    names = ", ".join(part.problems[:_MOST_NAMES]) or "no problem that is named"
    more = len(part.problems) - _MOST_NAMES
    names += f" and {more} more" if more > 0 else ""
    stage = "" if part.stage is None else f"stage {part.stage:g}"
    return ": ".join(word for word in (run, stage, names) if word)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"


def _peak_memory(run: RunData) -> float | None:
    keys = [key for key in run.keys("search") if "memory" in key]
    values = [value for key in keys for value in run.line("search", key).y]
    return max(values, default=None)

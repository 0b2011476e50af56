"""What an audit found: rows, the texts below them, and the table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .._arguments import checked, within
from .._errors import MloptError, SettingsError
from .._evaluation.causes import Cause
from .._graph.picture import paragraphs, table
from .cost import Took

__all__ = ["Audit", "AuditError", "Cause", "Finding"]


class AuditError(MloptError, AssertionError):
    """An audit found a larger error than it was allowed to; the message is its table."""


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        kind: "edge": a pullback; "total": a whole hypergradient; "rounding": a whole hypergradient
            as a step computes it, against the same in float64.
        edge: "lower problem -> argument", or "problem: its variables".
        method: of the lower problem, "sweep" or the dtype.
        oracle: what it was compared with: "exact", "differences" (of values), "re-solved"
            (differences, with lower problems minimised anew) or "float64".
        error: |ours - oracle| / |oracle|; None where it could not be compared.
        cosine: of the angle between the two.
        ratio: of the norms, |ours| / |oracle|.
        took: cost of the pullback, or of the hypergradient as a step computes it.
        backwards: passes of it, as planned; None where that is not known.
    """

    kind: str
    edge: str
    method: str
    oracle: str
    error: float | None
    cosine: float | None = None
    ratio: float | None = None
    took: Took = field(default_factory=Took)
    backwards: int | None = None


@dataclass(frozen=True)
class Audit:
    """What an audit found. Print it for a table.

    Attributes:
        findings: the rows.
        warnings: what to know about them, in words; those of the causes come first.
        precision: what the comparison was computed in.
        causes: faults in what the functions do, which explain the rows.
    """

    findings: tuple[Finding, ...]
    warnings: tuple[str, ...] = ()
    precision: str = "float64"
    causes: tuple[Cause, ...] = ()

    @property
    def worst(self) -> float:
        """The largest relative error of all edges and hypergradients, rounding left aside.

        Infinite where something could not be compared, and NaN where there was nothing to compare.
        """
        errors = [math.inf if f.error is None or math.isnan(f.error) else f.error
                  for f in self.findings if f.kind != "rounding"]  # fmt: skip
        return max(errors, default=math.nan)

    @property
    def rounding(self) -> float:
        """The largest relative error of a step's own precision; 0.0 for float64."""
        return max(
            (f.error for f in self.findings if f.kind == "rounding" and f.error is not None),
            default=0.0,
        )

    @checked(SettingsError, tolerance=within("[0, inf]"))
    def check(self, tolerance: float = 1e-6) -> None:
        """Raise if any edge or hypergradient is further off than this, or was not compared.

        Args:
            tolerance: the largest relative error that is allowed.

        Raises:
            AuditError: with the table; it is an `AssertionError` too.
            SettingsError: the tolerance is no number from 0.
        """
        if not self.worst <= tolerance:
            raise AuditError(
                f"audit: the worst relative error is {self.worst:.3g}, allowed is {tolerance:.3g}."
                f"\n\n{self}"
            )

    def __str__(self) -> str:
        return "\n\n".join([_table(self.findings), *self._notes()])

    def _repr_html_(self) -> str:
        rows = [_cells(f) for f in self.findings]
        made = table(_HEAD, rows) if rows else paragraphs([_NOTHING])
        return made + paragraphs(self._notes())

    def _notes(self) -> list[str]:
        """What stands below the table."""
        coarse = f"compared in {self.precision}, in which small errors cannot be told"
        notes = [] if self.precision == "float64" else [coarse]
        return [*notes, *(f"! {text}" for text in self.warnings)]


_NOTHING = "nothing to audit: no problem steers a lower one"
_HEAD = (
    "edge", "method", "against", "relative error", "cosine", "norm ratio", "passes", "ms", "peak",
)  # fmt: skip


def _table(findings: tuple[Finding, ...]) -> str:
    if not findings:
        return _NOTHING
    rows = [_HEAD, *map(_cells, findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    padded = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _cells(f: Finding) -> tuple[str, ...]:
    took = f.took
    return (
        f.edge,
        " ".join(f.method.split()),  # tensors print in several lines
        f.oracle,
        "-" if f.error is None else f"{f.error:.1e}",
        "-" if f.cosine is None else f"{f.cosine:.6f}",
        "-" if f.ratio is None else f"{f.ratio:.6f}",
        f"{took.evaluations}/{'-' if f.backwards is None else f.backwards}"
        if took.milliseconds
        else "-",
        f"{took.milliseconds:.1f}" if took.milliseconds else "-",
        "-" if took.peak_bytes is None else f"{took.peak_bytes / 2**20:.0f} MiB",
    )

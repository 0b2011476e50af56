"""Alarms of a search: signs that an architecture collapses, or that its weights overfit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mlopt._arguments import check_fields, checked, within
from mlopt._errors import SettingsError
from mlopt.nas.architecture import Architecture
from mlopt.nas.genotype import Genotype
from mlopt.nas.operations import PRIMITIVES

__all__ = ["Alarm", "CollapseMonitor", "largest_none", "skip_share"]

_SKIP, _NONE = "skip_connect", "none"


class Alarm(NamedTuple):
    """One sign, as a sentence.

    Attributes:
        kind: `skips`, `none`, `entropy` or `gap`.
        text: what was found, for a person.
    """

    kind: str
    text: str


@checked(SettingsError)
def skip_share(genotype: Genotype) -> dict[str, float]:
    """The share of skip connections among the operations that each kind of cell keeps.

    Args:
        genotype: what would be derived now.

    Returns:
        `normal` and `reduce`, from 0 to 1.
    """
    cells = {"normal": genotype.normal, "reduce": genotype.reduce}
    return {
        kind: sum(name == _SKIP for name, _ in pairs) / len(pairs) for kind, pairs in cells.items()
    }


@checked(SettingsError)
@torch.no_grad()
def largest_none(architecture: Architecture) -> dict[str, float]:
    """The largest weight of 'none' on an edge, for each kind of cell; 0 where no edge has it.

    Args:
        architecture: whose mixtures are read.

    Returns:
        `normal` and `reduce`, from 0 to 1.
    """
    weights = architecture()
    names = architecture.operations
    if len(names) != weights.normal.shape[1]:  # an edge has some of all operations
        names = PRIMITIVES
    if _NONE not in names:
        return {"normal": 0.0, "reduce": 0.0}
    column = names.index(_NONE)
    tables = {"normal": weights.normal, "reduce": weights.reduce}
    return {kind: float(table[:, column].max()) for kind, table in tables.items()}


@dataclass(frozen=True)
class CollapseMonitor:
    """What to watch in a differentiable search, and when to raise an alarm.

        measures = monitor.measures(architecture, genotype, validation_loss, training_loss)
        for alarm in monitor.alarms(measures):
            print(alarm.text)

    A search by gradient tends to give ever more weight to skip connections: they train fastest and
    carry the others' gradients. A cell of little else is shallow, and the network that is retrained
    from it is bad although the supernet validates well. DARTS+ ends a search when the normal cell
    has two skips or more; of the eight edges that a cell of four nodes keeps, that is
    `skips=0.2`. The default is milder, a collapse beyond doubt: DARTS' own first-order cell has
    three of eight.

    The other alarms are no collapse, but say that the result may mean little: an edge that gives
    most of its weight to 'none' is judged by what is left of it; mixtures that are decided no
    longer change; and weights that fit the training half alone judge nothing.

    Args:
        skips: alarm if more than this share of the normal cell's kept operations are skips.
        none: alarm if 'none' has more than this weight on an edge of a normal cell.
        entropy: alarm if the mean entropy of the normal cells' mixtures, in nats, is below this.
        gap: alarm if the validation loss is above the training loss by more than this.

    Raises:
        SettingsError: a threshold is negative or not a number.

    Reference: Liang et al., "DARTS+: Improved Differentiable Architecture Search with Early
        Stopping", 2019; Zela et al., "Understanding and Robustifying Differentiable Architecture
        Search", ICLR 2020.
    """

    skips: float = 0.5
    none: float = 0.9
    entropy: float = 0.1
    gap: float = 1.0

    def __post_init__(self) -> None:
        threshold = within("[0, inf]")
        check_fields(
            self, SettingsError, skips=threshold, none=threshold, entropy=threshold, gap=threshold
        )

    @checked(SettingsError)
    def measures(
        self,
        architecture: Architecture,
        genotype: Genotype | None = None,
        validation_loss: float | None = None,
        training_loss: float | None = None,
    ) -> dict[str, float]:
        """Measure a search; it changes nothing.

        Args:
            architecture: as the search left it.
            genotype: what would be derived now; None where the space does not derive one yet.
            validation_loss: of the weights, on the half that judges the architecture.
            training_loss: of weights at the same architecture, on the half that trains them.

        Returns:
            By name: `entropy/<cell>` in nats, `none/<cell>`, with a genotype `skips/<cell>`, and
            with both losses `gap`; `<cell>` is `normal` or `reduce`.
        """
        found = {f"entropy/{kind}": value for kind, value in architecture.entropy().items()}
        found |= {f"none/{kind}": value for kind, value in largest_none(architecture).items()}
        if genotype is not None:
            found |= {f"skips/{kind}": value for kind, value in skip_share(genotype).items()}
        if validation_loss is not None and training_loss is not None:
            found["gap"] = validation_loss - training_loss
        return found

    @checked(SettingsError)
    def alarms(self, measures: Mapping[str, float]) -> list[Alarm]:
        """What is wrong by these measures.

        Args:
            measures: as `measures` returns them; one that is missing raises no alarm.

        Returns:
            The alarms, empty if all is well.
        """

        def value(name: str) -> float:
            return measures.get(name, math.nan)  # which is neither above nor below a threshold

        skips, none = value("skips/normal"), value("none/normal")
        entropy, gap = value("entropy/normal"), value("gap")
        found = [
            (
                skips > self.skips,
                "skips",
                f"{skips:.0%} of what the normal cell keeps are skip connections",
            ),
            (
                none > self.none,
                "none",
                f"an edge of the normal cell gives {none:.0%} of its weight to 'none'",
            ),
            (
                entropy < self.entropy,
                "entropy",
                f"the normal cell's mixtures are decided (mean entropy {entropy:.3f} nats)",
            ),
            (
                gap > self.gap,
                "gap",
                f"the validation loss is {gap:.2f} above the training loss",
            ),
        ]
        return [Alarm(kind, text) for wrong, kind, text in found if wrong]

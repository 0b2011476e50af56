"""A table of experiments, and a row of it: what it runs, and what a paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlopt import SettingsError

from ..settings import Settings, read_preset

#: What a row may run.
RUNNABLE = ("darts", "lfm_cw_darts", "sgl_darts", "evaluate")
#: Settings that say where and how a run is made: they are given with it, not in a table.
FREE = (
    "seed", "device", "workers", "data_root", "unlabeled_root", "run_folder", "overwrite",
    "checkpoint_every", "loggers",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        table: its name.
        name: of the row.
        label: what the printed table calls it.
        example: what it runs, of `RUNNABLE`.
        settings: what it sets with every preset, and with each preset alone, by their tables' names
            ("settings", "quick", ...); those of the whole table are among them.
        genotype: of an evaluation.
        series: the line of the table's chart that it belongs to.
        published: the paper's test error in percent, if there is one.
        published_deviation: over the paper's seeds.
        source: paper and table of these two figures.
    """

    table: str
    name: str
    label: str
    example: str
    settings: Mapping[str, dict[str, Any]]
    genotype: str = ""
    series: str = ""
    published: float | None = None
    published_deviation: float | None = None
    source: str = ""

    @property
    def where(self) -> str:
        """For errors."""
        return f"experiments/{self.table}.toml, row {self.name!r}"

    def resolved(self, preset: str, given: Mapping[str, Any]) -> Settings:
        """Its settings: the preset, over it what the row sets, over both what was given.

        Raises:
            SettingsError: there is no such preset.
        """
        own = {**self.settings["settings"], **self.settings.get(preset, {}), **given}
        base = read_preset(preset, self.example, own.get("dataset"), own.get("space"))
        return Settings(**(base | own))

    def same_run(self, other: Row) -> bool:
        """Whether both run the same, whatever the preset."""
        own = ("example", "genotype", "settings")
        return all(getattr(self, name) == getattr(other, name) for name in own)

    @property
    def dataset(self) -> str:
        """That of the published figure."""
        return self.settings["settings"].get("dataset", Settings.dataset)


@dataclass(frozen=True)
class Table:
    """A table of experiments.

    Attributes:
        name: of its file.
        title: what it shows.
        rows: in order.
        note: what a reader must know besides.
        plot: a setting to draw the errors against; "": the rows as they are.
        seeds: by preset.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    note: str = ""
    plot: str = ""
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """A row by name.

        Raises:
            SettingsError: there is no such row.
        """
        known = {row.name: row for row in self.rows}
        if name not in known:
            raise SettingsError(
                f"experiments/{self.name}.toml: there is no row {name!r}; give one of "
                f"{', '.join(known)}."
            )
        return known[name]

"""Tables of experiments as data, checked before anything runs.

A table is a file `experiments/<name>.toml`:

    title = "LFM-CW on CIFAR-10"
    source = "Gala and Xie, LFM-CW, Table 2"   # of the published figures
    seeds.paper = [1, 2, 3]        # of the runs with the preset paper; by default [0]
    settings.dataset = "cifar10"   # what all rows set above the preset
    quick.dataset = "digits"       # what they set with the preset quick alone

    [[rows]]
    name = "lfm-cw-darts-1st"
    label = "LFM-CW on DARTS-1st"
    example = "lfm_cw_darts"       # or darts, sgl_darts, evaluate
    settings.order = "first"       # what this row sets
    published = 2.55               # test error, %

A row with `example = "evaluate"` has a `genotype`: a published one by its name, or what another row
has found, as "lfm-cw-cifar100/lfm-cw-darts-1st".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlopt import SettingsError
from mlopt.nas import GENOTYPES

from ..settings import Settings, checked, preset_names, read_toml
from .table import FREE, RUNNABLE, Row, Table

TABLES = Path(__file__).parents[2] / "experiments"
#: The presets; each may have a table of settings, in a table of experiments and in its rows.
PRESETS = tuple(preset_names())
_TABLE = {
    "title": str, "source": str, "note": str, "plot": str, "seeds": dict, "rows": list,
    "settings": dict, **dict.fromkeys(PRESETS, dict),
}  # fmt: skip
_ROW = {
    "name": str, "label": str, "example": str, "genotype": str, "series": str, "published": float,
    "published_deviation": float, "source": str, "settings": dict,
    **dict.fromkeys(PRESETS, dict),
}  # fmt: skip


def table_names() -> list[str]:
    """All tables there are."""
    return sorted(path.stem for path in TABLES.glob("*.toml"))


def read_table(name: str) -> Table:
    """A table of `experiments/`, all of it checked.

    Raises:
        SettingsError: there is no such table, or something in it is not what it should be.
    """
    if name not in table_names():
        raise SettingsError(f"--table {name}: there is no such table; give one of {_all()}.")
    where = f"experiments/{name}.toml"
    content = read_toml(TABLES / f"{name}.toml", where)
    _check(content, _TABLE, where, needed=("title", "rows"))
    rows = tuple(_row(name, number, raw, content) for number, raw in enumerate(content["rows"], 1))
    if not rows:
        raise SettingsError(f"{where}: rows is empty; give a [[rows]].")
    for what in ("name", "label"):
        _no_two([getattr(row, what) for row in rows], f"{where}: two rows have the {what}")
    for a, b in itertools.combinations(rows, 2):
        if a.same_run(b):
            raise SettingsError(
                f"{where}: rows {a.name!r} and {b.name!r} are the same run; remove one."
            )
    plot = content.get("plot", "")
    if plot and type(getattr(Settings, plot, None)) not in (int, float):
        raise SettingsError(f"{where}: plot = {plot!r} is no setting that is a number.")
    return Table(
        name, content["title"], rows, content.get("note", ""), plot,
        _seeds(content.get("seeds", {}), f"{where}, [seeds]"),
    )  # fmt: skip


def referred(row: Row) -> Row | None:
    """The row whose genotypes an evaluation takes; None if it takes a published one.

    Raises:
        SettingsError: there is no such row, or it finds no genotypes.
    """
    if row.example != "evaluate" or row.genotype in GENOTYPES:
        return None
    table, _, name = row.genotype.partition("/")
    if not name or table not in table_names():
        raise SettingsError(
            f"{row.where}: genotype = {row.genotype!r} is neither a published one, which are "
            f"{', '.join(GENOTYPES)}, nor <table>/<row> with a table of {_all()}."
        )
    try:
        found = read_table(table).row(name)
    except SettingsError as error:
        raise SettingsError(f"{row.where}: genotype = {row.genotype!r}: {error}") from error
    if found.example == "evaluate":
        raise SettingsError(f"{row.where}: genotype = {row.genotype!r} is not a search.")
    return found


def _row(table: str, number: int, raw: Any, content: dict[str, Any]) -> Row:
    name = raw.get("name", number) if isinstance(raw, dict) else number
    where = f"experiments/{table}.toml, row {name!r}"
    if not isinstance(raw, dict):
        raise SettingsError(f"{where} must be a table: write [[rows]].")
    _check(raw, _ROW, where, needed=("name", "label", "example"))
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", raw["name"]):
        raise SettingsError(f"{where}: a name has lower-case letters, digits, dots and dashes.")
    if raw["example"] not in RUNNABLE:
        raise SettingsError(
            f"{where}: there is no example {raw['example']!r} to run; give one of "
            f"{', '.join(RUNNABLE)}."
        )
    if ("genotype" in raw) != (raw["example"] == "evaluate"):
        raise SettingsError(f'{where}: genotype and example = "evaluate" belong together.')
    source = raw.get("source", content.get("source", ""))
    if "published" in raw and not source:
        raise SettingsError(f"{where}: published has no source; say which paper and table.")
    settings = {
        key: _settings(content.get(key, {}), f"experiments/{table}.toml, [{key}]")
        | _settings(raw.get(key, {}), f"{where}, {key}")
        for key in ("settings", *PRESETS)
    }
    others = {k: v for k, v in raw.items() if k not in settings}
    return Row(table, settings=settings, **(others | {"source": source}))


def _settings(values: dict[str, Any], where: str) -> dict[str, Any]:
    for name in FREE:
        if name in values:
            raise SettingsError(
                f"{where}: {name} is given with each run, on the command line; remove it here."
            )
    return checked(values, where)


def _seeds(content: dict[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    _check(content, dict.fromkeys(PRESETS, list), where)
    for preset, seeds in content.items():
        if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
            raise SettingsError(f"{where}: {preset} = {seeds!r} must be a list of whole numbers.")
        _no_two(seeds, f"{where}: {preset} has twice the seed")
    return {preset: tuple(seeds) for preset, seeds in content.items()}


def _check(
    content: dict[str, Any], kinds: Mapping[str, type], where: str, needed: Iterable[str] = ()
) -> None:
    """Every key is known and has a value of its kind, and no key is missing."""
    for key, value in content.items():
        if key not in kinds:
            raise SettingsError(f"{where}: there is no key {key!r}; known are {', '.join(kinds)}.")
        if type(value) is not kinds[key] and not (kinds[key] is float and type(value) is int):
            raise SettingsError(
                f"{where}: {key} = {value!r} must be of type {kinds[key].__name__}."
            )
    for key in needed:
        if key not in content:
            raise SettingsError(f"{where}: {key} is missing.")


def _no_two(values: Iterable[Any], message: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise SettingsError(f"{message} {value!r}.")
        seen.add(value)


def _all() -> str:
    return ", ".join(table_names())

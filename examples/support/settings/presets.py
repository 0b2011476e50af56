"""Presets: the settings that a file `configs/<name>.toml` has for a run.

A preset sets what it names; `Settings` has the rest. Its tables are for one data set, one search
space, or one example, and are read in this order, the later over the earlier ones:

    lr = 0.025                  # for every run

    [datasets.imagenet]         # for runs on ImageNet
    [spaces.p-darts]            # for searches in the space of P-DARTS
    [spaces.pc-darts.imagenet]  # for searches in the space of PC-DARTS on ImageNet
    [sgl_darts]                 # for runs of examples/sgl_darts.py
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mlopt import SettingsError

from .checks import checked
from .options import DATASETS, SPACE_NAMES, Settings
from .toml import read_toml

CONFIGS = Path(__file__).parents[2] / "configs"
#: Those that may have a table of their own in a preset.
EXAMPLES = ("darts", "lfm_cw_darts", "sgl_darts", "evaluate", "generator")
#: The tables of tables that a preset may have besides, and what those inside are named.
_TABLES = {"datasets": DATASETS, "spaces": SPACE_NAMES}


def preset_names() -> list[str]:
    """All presets there are."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def read_preset(
    name: str, example: str | None = None, dataset: str | None = None, space: str | None = None
) -> dict[str, Any]:
    """The settings of a preset, all of its tables checked against `Settings`.

    Args:
        name: of a file in `configs/`.
        example: whose table in the file is read.
        dataset: whose table is read; by default the one that the preset itself names.
        space: likewise.

    Returns:
        Settings by name; those of `dataset` and `space` are the ones given.

    Raises:
        SettingsError: there is no such preset, or something in it is no setting.
    """
    known = preset_names()
    if name not in known:
        raise SettingsError(
            f"--preset {name}: there is no such preset; give one of {', '.join(known)}."
        )
    values, tables = _read(CONFIGS / f"{name}.toml")
    top = dict(values)
    dataset = dataset or top.get("dataset", Settings.dataset)
    space = space or top.get("space", Settings.space)
    chosen = (f"datasets.{dataset}", f"spaces.{space}", f"spaces.{space}.{dataset}", example)
    for table in chosen:
        top |= tables.get(table or "", {})
    return top | {"dataset": dataset, "space": space}


@cache  # every cell of a table of experiments starts from a preset
def _read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a preset sets for every run, and all of its tables."""
    where = f"configs/{path.name}"
    content = read_toml(path, where)
    top = checked({k: v for k, v in content.items() if not isinstance(v, dict)}, where)
    return top, _tables({k: v for k, v in content.items() if isinstance(v, dict)}, where)


def _tables(content: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """All tables by their names as in the file, "space.p-darts" say, each checked."""
    found: dict[str, dict[str, Any]] = {}
    for table, values in content.items():
        if table in EXAMPLES:
            found[table] = values
        elif table in _TABLES:
            for name, inner in values.items():
                if name not in _TABLES[table]:
                    known = ", ".join(_TABLES[table])
                    raise SettingsError(
                        f"{where}: [{table}.{name}]: there is no {table[:-1]} {name!r}; "
                        f"give one of {known}."
                    )
                if not isinstance(inner, dict):
                    raise SettingsError(
                        f"{where}: [{table}] holds tables such as [{table}.{name}], "
                        f"not {name} = {inner!r}."
                    )
                found[f"{table}.{name}"] = inner
                if table == "spaces":  # that space on one data set
                    for last in [k for k in inner if k in DATASETS and isinstance(inner[k], dict)]:
                        found[f"{table}.{name}.{last}"] = inner.pop(last)
        else:
            raise SettingsError(
                f"{where}: [{table}] is the table of no example; give one of "
                f"{', '.join(EXAMPLES)}, or [datasets.<name>] or [spaces.<name>]."
            )
    for table, values in found.items():
        for name in ("dataset", "space"):
            if name in values:
                raise SettingsError(
                    f"{where}, [{table}]: {name} chooses the tables, so none can set it; "
                    "set it above the tables."
                )
        found[table] = checked(values, f"{where}, [{table}]")
    return found

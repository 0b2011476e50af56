"""Run a table of a paper, or some of its rows: searches, then evaluations, for several seeds.

    python examples/experiments.py --list
    python examples/experiments.py --table matrix --dry-run
    python examples/experiments.py --table ablation-lambda --preset quick --seeds 0 1 2
    python examples/experiments.py --table lfm-cw-cifar10 --preset paper --data-root data \\
        --device cuda --rows lfm-cw-darts-1st
    python examples/experiments.py --table matrix --set epochs=3 channels=4
    python examples/experiments.py --table matrix --jobs 4
    python examples/experiments.py --table lfm-cw-cifar10 --preset paper --data-root data \\
        --device cuda --launcher ray --gpus 0.5 --cpus 4

A cell of the table is one row with one seed, and has a run folder. The same command again goes on
where it was: finished cells are read, one that was interrupted or failed goes on. Several of
these commands may run at once on the same folder, on one machine or as the jobs of a cluster; none
takes a cell that another is at. The table, with mean and deviation over the seeds beside the
paper's figures, is written into <folder>/<table>-<preset>/ as cells end, with a chart and a page of
the learned cells and the generated images, and printed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import darts
import evaluate
import lfm_cw_darts
import mlopt
import sgl_darts
from mlopt.report import format_table
from mlopt.report.refresh import Refresh
from support import pipeline
from support.launchers import (
    InTurn,
    Launcher,
    add_options,
    launched,
    launcher_of,
    run_child,
)
from support.settings import Settings, checked, read_value
from support.tables import (
    PRESETS,
    Cell,
    Experiment,
    Line,
    read_table,
    table_names,
    write,
    write_page,
)

#: The searches that a row may run; the other program is evaluate.py.
SCHEMES = {
    "darts": darts.scheme,
    "lfm_cw_darts": lfm_cw_darts.scheme,
    "sgl_darts": sgl_darts.scheme,
}


def make(
    table: str,
    preset: str = "quick",
    seeds: Sequence[int] = (),
    given: Mapping[str, Any] | None = None,
    folder: str | Path = "runs/experiments",
) -> Experiment:
    """A table with the cells of all of its rows; nothing is run or written.

    Args:
        table: its name.
        preset: that all rows start from.
        seeds: of each row; none means those of the table.
        given: settings that are put above those of the rows.
        folder: of all experiments.

    Raises:
        SettingsError: something in the table is wrong, or a folder holds a run with other settings.
    """
    t, given, folder = read_table(table), given or {}, Path(folder)
    seeds = list(dict.fromkeys(seeds or t.seeds.get(preset, (0,))))
    lines = [
        Line(row, [Cell.make(row, preset, seed, given, folder) for seed in seeds]) for row in t.rows
    ]
    for line in lines:
        for cell in line.cells:
            cell.check()
    return Experiment(t, preset, given, lines, folder)


def run(
    experiment: Experiment,
    rows: Sequence[str] = (),
    launcher: Launcher | None = None,
    retries: int = 0,
) -> int:
    """Run what is not finished of a table, a seed of all rows after the other, and report it all.

    Args:
        experiment: a table with its cells.
        rows: those to run; none means all.
        launcher: where; by default in this process, one after another.
        retries: how often a cell whose process died is tried again.

    Returns:
        How many of the rows' cells failed, or were interrupted each alone.

    Raises:
        SettingsError: there is no such row.
    """
    cells = cells_of(experiment, rows)
    todo = [cell for cell in with_searches(cells) if cell.state() != "done"]
    own = {cell.folder for cell in cells}
    page, failed = Refresh(write_page), 0
    with contextlib.closing(launched(todo, launcher or InTurn(start), retries)) as states:
        for cell, became in states:
            failed += cell.folder in own and became in ("failed", "half done")
            write(experiment)
            page.when_due(experiment)
    print("\n" + write(experiment))
    print(f"page: {write_page(experiment)}")
    return failed


def cells_of(experiment: Experiment, rows: Sequence[str]) -> list[Cell]:
    """The cells of these rows, seed by seed; those that are the same run once.

    Raises:
        SettingsError: there is no such row.
    """
    by_seed = zip(*(line.cells for line in chosen(experiment, rows)), strict=True)
    return [*{cell.folder: cell for cells in by_seed for cell in cells}.values()]


def with_searches(cells: Sequence[Cell]) -> list[Cell]:
    """Cells, each evaluation behind the search whose genotype it takes."""
    found: dict[Path, Cell] = {}
    for cell in cells:
        for each in (cell.search, cell):
            if each is not None:
                found.setdefault(each.folder, each)
    return [*found.values()]


def start(example: str, s: Settings, genotype: str, resume: bool) -> None:
    """Run an example into the folder of its settings.

    Args:
        example: of those that a row of a table may run.
        s: its settings.
        genotype: what an evaluation takes.
        resume: whether it goes on with what is in the folder.

    Raises:
        MloptError: as the example.
    """
    if example == "evaluate":
        evaluate.run(genotype, s, resume)
    else:
        pipeline.run(example, SCHEMES[example], s, resume=resume)


def chosen(experiment: Experiment, rows: Sequence[str]) -> list[Line]:
    """The lines of these rows; all, if none is named.

    Raises:
        SettingsError: there is no such row.
    """
    wanted = {experiment.table.row(name).name for name in rows}
    return [line for line in experiment.lines if not wanted or line.row.name in wanted]


def _of_folder(folder: str, cells: Sequence[Cell]) -> Cell:
    for cell in cells:
        if str(cell.folder) == folder:
            return cell
    raise mlopt.SettingsError(f"--cell {folder}: no cell of this command has that folder.")


def plan(experiment: Experiment, rows: Sequence[str] = ()) -> str:
    """What would run: the state of each cell, and how many there are of each kind."""
    shown: list[dict[str, Any]] = []
    states: list[str] = []
    for line in chosen(experiment, rows):
        s = line.cells[0].s
        own = {f"seed {cell.s.seed}": cell.state() for cell in line.cells}
        what = {"space": s.space, "order": s.order} if not line.row.genotype else {}
        shown.append(
            {"row": line.row.name, "example": line.row.example, "data set": s.dataset, **what,
             "genotype": line.row.genotype or None, **own}
        )  # fmt: skip
        states += own.values()
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{format_table(shown)}\n\n{len(states)} runs: {counts}."


def listing(table: str) -> str:
    """All tables, or the rows of one."""
    if not table:
        tables = [read_table(name) for name in table_names()]
        return format_table(
            [{"table": t.name, "rows": len(t.rows), "what": t.title} for t in tables]
        )
    rows = read_table(table).rows
    return format_table(
        [
            {"row": r.name, "what": r.label, "example": r.example, "in the paper, %": r.published}
            for r in rows
        ]
    )


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line puts above the rows; `--set` takes values as TOML has them."""
    values: dict[str, Any] = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise mlopt.SettingsError(f"--set {text}: write name=value.")
        values[name.strip()] = read_value(value)
    for name in ("seed", "run_folder", "overwrite"):
        if name in values:
            raise mlopt.SettingsError(f"--set {name}: use --seeds, --folder, or remove the folder.")
    own = {"device": options.device, "data_root": options.data_root, "workers": options.workers}
    values = checked(values, "--set")
    return values | checked({k: v for k, v in own.items() if v is not None}, "the command line")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="", help="one of those that --list names")
    parser.add_argument("--preset", default="quick", choices=PRESETS, help="of all rows")
    parser.add_argument("--rows", nargs="+", default=[], help="run these rows only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the table's")
    parser.add_argument("--folder", default="runs/experiments", help="of all experiments")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--data-root", help="folder of the data set's files")
    parser.add_argument("--workers", type=int, help="processes that load images")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings above those of rows"
    )
    add_options(parser)
    parser.add_argument("--list", action="store_true", help="the tables, or the rows of --table")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, and run nothing"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 1 if a cell failed."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parsed(words)
    with pipeline.ending(resume=""), _said():
        for seed in options.seeds:
            checked({"seed": seed}, "--seeds")
        if options.list:
            print(listing(options.table))
            return 0
        if not options.table:
            raise mlopt.SettingsError(
                f"--table is missing: give one of {', '.join(table_names())}."
            )
        given = given_settings(options)
        experiment = make(options.table, options.preset, options.seeds, given, options.folder)
        if options.dry_run:
            print(plan(experiment, options.rows))
            return 0
        cells = cells_of(experiment, options.rows)
        if options.cell:
            return run_child(_of_folder(options.cell, with_searches(cells)), start)
        command = [sys.executable, __file__, *words]
        launcher = launcher_of(options, command, start, given.get("device", Settings.device))
        return 1 if run(experiment, options.rows, launcher, options.retries) else 0


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Errors of the system as one line, such as of a folder that cannot be looked into."""
    try:
        yield
    except OSError as error:
        raise mlopt.SettingsError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())

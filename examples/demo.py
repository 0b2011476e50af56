"""LFM-CW and plain DARTS side by side: same data, same budget of epochs, same seeds; one table.

python examples/demo.py                     # one seed: what `make demo` runs
python examples/demo.py --seeds 0 1 2 --table benchmarks/results/digits_quick.md
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import lfm_cw_darts
from support.pipeline import ending, run_beside_base
from support.results import result_table
from support.settings import Settings, checked, read_preset
from support.tables.files import save


def folder_of(s: Settings, resume: bool = False) -> Path:
    """runs/demo-..., or the next number: an earlier run is never overwritten.

    Args:
        s: the settings.
        resume: whether to take the newest that is there, if one is.
    """
    if s.run_folder:
        return Path(s.run_folder)
    first = Path(f"runs/demo-{s.dataset}-seed{s.seed}")
    candidates = [first, *(first.with_name(f"{first.name}-{n}") for n in range(2, 1000))]
    free = next(n for n, path in enumerate(candidates) if not path.exists())
    return candidates[max(0, free - 1) if resume else free]


def over_seeds(tables: list[list[dict[str, Any]]], seeds: list[int]) -> list[dict[str, Any]]:
    """A row for each seed and scheme, then the means with the deviation over seeds."""
    rows = [
        {**row, "name": f"{row['name']}, seed {seed}"}
        for seed, table in zip(seeds, tables, strict=True)
        for row in table[:2]
    ]
    for index in range(2):
        errors = [table[index]["test_error"] for table in tables]
        rows.append(
            {
                "name": f"{tables[0][index]['name']}, mean of {len(seeds)}",
                "search_seconds": statistics.mean(
                    table[index]["search_seconds"] for table in tables
                ),
                "passes": tables[0][index]["passes"],
                "test_error": statistics.mean(errors),
                "standard_error": statistics.stdev(errors) / len(errors) ** 0.5,
            }
        )
    return rows + tables[0][2:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", type=Path, help="write the table as Markdown, too")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the newest run of each seed, if any"
    )
    options = parser.parse_args()
    if options.table and not os.path.isdir(options.table.parent):
        parser.error(f"--table {options.table}: there is no folder {options.table.parent}")
    with ending():
        preset = read_preset(options.preset)
        tables, reports = [], []
        for seed in options.seeds:
            given = checked({"seed": seed, "device": options.device}, "the command line")
            s = Settings(**{**preset, **given})
            root = folder_of(s, options.resume)
            print(f"LFM-CW and DARTS on {s.dataset}, seed {seed}, into {root}")
            s = dataclasses.replace(s, run_folder=str(root))
            tables.append(
                run_beside_base("lfm_cw_darts", lfm_cw_darts.scheme, s, resume=options.resume)
            )
            reports.append(root / "report.html")
    rows = tables[0] if len(tables) == 1 else over_seeds(tables, options.seeds)
    print("\n" + result_table(rows) + "\n")
    print(note(tables[0], options.seeds))
    print(f"report: {' '.join(str(path.resolve()) for path in reports)}")
    if options.table:
        save(options.table, markdown(rows, options.seeds, tables[0]))


def note(table: list[dict[str, Any]], seeds: list[int]) -> str:
    """What the table can say, and what it cannot."""
    if len(seeds) > 1:
        return "The standard error of a mean is that of the mean over seeds."
    both = sum(row["standard_error"] ** 2 for row in table[:2]) ** 0.5
    return (
        f"One seed: the difference of the two test errors has a standard error of about {both:.2f} "
        "percentage points from the test set alone; smaller differences say nothing."
    )


def markdown(rows: list[dict[str, Any]], seeds: list[int], table: list[dict[str, Any]]) -> str:
    """The table with what is needed to make it again."""
    return (
        f"# LFM-CW and DARTS on the digits, quick preset\n\n`python {' '.join(sys.argv)}`\n\n"
        f"{torch.get_num_threads()} CPU threads, {platform.machine()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {datetime.date.today()}. {note(table, seeds)} "
        f"Times are of a shared machine.\n\n{result_table(rows, markdown=True)}\n"
    )


if __name__ == "__main__":
    main()

"""Reports from the command line.

`python -m mlopt.report runs/first` writes the report of a run again and prints where it is; of
several runs, `python -m mlopt.report runs/first runs/second`, it writes one page side by side.
"""

from __future__ import annotations

import argparse
import sys

from mlopt._errors import MloptError
from mlopt.report.comparison import write_comparison
from mlopt.report.html import write_report


def main() -> int:
    """Write the report that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m mlopt.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="folder", help="the folder of a run")
    parser.add_argument(
        "--output", help="the page of several runs (default: comparison.html, where you are)"
    )
    arguments = parser.parse_args()
    one = len(arguments.folders) == 1
    if one and arguments.output is not None:
        parser.error("--output is for several runs; the report of one is in its folder")
    try:
        if one:
            print(write_report(arguments.folders[0]))
        else:
            print(write_comparison(arguments.folders, arguments.output or "comparison.html"))
    except MloptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m mlopt.report runs/first` writes the report of a run again and prints where it is."""

from __future__ import annotations

import argparse
import sys

from mlopt._errors import MloptError
from mlopt.report.html import write_report


def main() -> int:
    """Write the report that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m mlopt.report", description=__doc__)
    parser.add_argument("folder", help="the folder of a run")
    arguments = parser.parse_args()
    try:
        print(write_report(arguments.folder))
    except MloptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

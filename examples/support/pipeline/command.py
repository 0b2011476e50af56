"""The command line of a program that searches."""

from __future__ import annotations

import sys

import mlopt

from ..results import result_table
from ..search import Scheme
from ..settings import parse
from .runs import run, run_beside_base


def main(example: str, scheme: Scheme, description: str | None) -> None:
    """The command line of an example.

    Args:
        example: its name, of the run folder and of its table in the presets.
        scheme: makes the search.
        description: the help text.
    """
    try:
        s = parse(description, example=example)
        rows = (run_beside_base if s.beside_plain else run)(example, scheme, s)
    except mlopt.MloptError as error:
        sys.exit(f"error: {error}")
    print(result_table(rows))

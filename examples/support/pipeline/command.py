"""The command line of a program that searches."""

from __future__ import annotations

import sys

from ..results import result_table
from ..search import Scheme
from ..settings import parse_with
from .ends import ending
from .proof import VERIFY, verify
from .runs import run, run_beside_base

#: What is no setting of a run.
FLAGS = {
    "resume": "go on with the run in the run folder, to the bit; where there is none, begin it",
    "verify_resume": VERIFY,
}


def main(example: str, scheme: Scheme, description: str | None) -> None:
    """The command line of an example.

    Args:
        example: its name, of the run folder and of its table in the presets.
        scheme: makes the search.
        description: the help text.
    """
    with ending():
        s, given = parse_with(FLAGS, description, example=example)
        if given["verify_resume"]:
            found = verify(scheme, s)
            print(found)
            sys.exit(0 if found.same else 1)
        rows = (run_beside_base if s.beside_plain else run)(
            example, scheme, s, resume=given["resume"]
        )
    print(result_table(rows))

"""The command line of a program that searches."""

from __future__ import annotations

import dataclasses
import sys

import mlopt

from ..ranks import alone, first, is_first, joined, take_device
from ..results import result_table
from ..search import Scheme
from ..settings import Settings, parse_with
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
    with joined(), ending():
        s, given = first(lambda: parse_with(FLAGS, description, example=example))
        if given["verify_resume"]:
            _check_alone()
            found = verify(scheme, s)
            print(found)
            sys.exit(0 if found.same else 1)
        rows = (run_beside_base if s.beside_plain else run)(
            example, scheme, _of_this_rank(s), resume=given["resume"]
        )
    print(result_table(rows))


def _of_this_rank(s: Settings) -> Settings:
    """Its own device, and loggers on the first rank alone."""
    loggers = s.loggers if is_first() else ""
    return dataclasses.replace(s, device=take_device(s.device), loggers=loggers)


def _check_alone() -> None:
    if not alone():
        raise mlopt.SettingsError(
            "--verify-resume: starts a process of its own, and cannot be asked of several. Ask one "
            "process, with --parts as many times as large as there are ranks: it computes the same."
        )

"""Programs that an interrupt ends in good order, and that go on from there with `--resume`."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlopt
from mlopt.report import RunFolder

from .ends import ending
from .folders import remove_checkpoints
from .proof import AT, STEPS, VERIFY

#: Of the program that runs, if one does: its folder, which the options name.
_folder: Path | None = None
#: A folder in it for each run of an engine, one after another.
_folders: Iterator[Path] = iter(())


def program(main: Callable[[], None]) -> None:
    """Run a program whose options are `parsed`, and whose runs are `saved` in an order that stays.

    Their checkpoints are in a folder of `runs/` that the options name, until the program is over.
    """
    global _folder, _folders
    with ending():
        try:
            main()
            if _folder is not None:
                _remove(_folder)
        finally:
            _folder, _folders = None, iter(())


def parsed(
    parser: argparse.ArgumentParser, make_engine: Callable[[], mlopt.Engine] | None = None
) -> argparse.Namespace:
    """The options of a program, and its `--resume`.

    Args:
        parser: of its own options.
        make_engine: of a program of one engine, which then has `--verify-resume`, too: that ends it
            with what was found, and the status 0 if it is right.
    """
    global _folder, _folders
    help = "go on with the run of these options that was interrupted; where there is none, begin it"
    parser.add_argument("--resume", action="store_true", help=help)
    if make_engine is not None:
        parser.add_argument("--verify-resume", action="store_true", help=VERIFY)
    given = parser.parse_args()
    if make_engine is not None and given.verify_resume:
        found = mlopt.verify_resume(make_engine, STEPS, AT)
        print(found)
        sys.exit(0 if found.same else 1)
    others = {k: v for k, v in vars(given).items() if v != parser.get_default(k)}
    words = [f"{name}={value}" for name, value in others.items() if "resume" not in name]
    _folder = Path("runs", "-".join([Path(parser.prog).stem, *words]))
    if not given.resume:
        _remove(_folder)
    _folders = (_folder / f"checkpoints_{n}" for n in itertools.count(1))
    return given


def saved(*callbacks: mlopt.Callback) -> dict[str, Any]:
    """For `engine.run(...)`: these callbacks, and in a program a checkpoint to resume from."""
    folder = next(_folders, None)
    if folder is None:
        return {"callbacks": callbacks}
    checkpoint = mlopt.Checkpoint(folder, every=None)
    return {"callbacks": [*callbacks, checkpoint], "resume": folder}


def _remove(folder: Path) -> None:
    """Remove what a program has saved."""
    remove_checkpoints(RunFolder(folder))
    with contextlib.suppress(OSError):  # there are others in it
        folder.rmdir()
        folder.parent.rmdir()

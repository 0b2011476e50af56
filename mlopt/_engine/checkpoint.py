"""`Checkpoint`: saves the state of a run now and then, so that the run can be resumed."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._arguments import checked, from_one
from .._errors import SettingsError
from .._files import Lock
from .checkpoint_files import checkpoints, keep_lock, remove_old, remove_rests, write_checkpoint
from .engine import Callback, Engine
from .fingerprint import fingerprint
from .resuming import run_state

__all__ = ["Checkpoint"]

#: With `every=None` the time between two checkpoints is at least so many times that of saving one.
_SPARING = 100
_NEVER = (-1, -1)


class Checkpoint(Callback):
    """Saves a run every so many steps and at its end; `run(resume=folder)` goes on from there.

        engine.run(steps=10_000, resume="runs/a", callbacks=[mlopt.Checkpoint("runs/a")])

    That line starts the run and resumes it: an empty folder is a start. What a checkpoint holds is
    `Engine.state_dict` and the states of all callbacks, after everything that belongs to a step has
    been done; the run that goes on is the run that was interrupted, to the bit.

    Each file is whole or not there, with a checksum over all of it; a damaged one is passed over
    for the one before. A run that has gone back, by `load_state_dict`, is resumed from where it has
    gone since: checkpoints of later steps are removed when the next is there. One run at a time
    writes to a folder: its lock ends with its process.

    Args:
        folder: the checkpoints' own; made if it is not there.
        every: steps from one checkpoint to the next; None: after the first step, and then whenever
            saving takes less than a hundredth of the time.
        keep: how many of the newest stay.

    Raises:
        SettingsError: `every` or `keep` is less than one.
    """

    @checked(SettingsError, every=from_one, keep=from_one)
    def __init__(self, folder: str | Path, *, every: int | None = 100, keep: int = 3) -> None:
        self.folder, self.every, self.keep = Path(folder), every, keep
        self._lock = Lock(self.folder / ".lock", self.folder)
        self._whole = -1  # after which step the state was whole
        self._saved = _NEVER  # after which step it was saved, and which it was measured after
        self._held = False  # whether it is a rank of several that save
        self._of: Callable[[], Engine | None] = lambda: None  # whose checkpoints are there
        self._next = 0.0  # not before, if it goes by the time

    def on_start(self, engine: Engine) -> None:
        """Take the folder; refuse one with checkpoints of a run that this one does not go on."""
        self._whole, self._saved = -1, _NEVER
        self._held = engine._sharded is not None  # of which each rank saves its rows
        if not engine._agreement.first:  # the first rank writes for all
            return
        self._lock.acquire()
        found = checkpoints(self.folder)
        resumed = _is_one(engine._course.folder, self.folder)
        if found and not resumed and self._of() is not engine:
            self._lock.release()
            raise SettingsError(
                f"Checkpoint: {self.folder} holds checkpoints of an earlier run, such as "
                f"{found[0][1].name}. To go on with it, call run(resume={str(self.folder)!r}); for "
                "a new run give another folder, or remove them."
            )
        fingerprint(engine)  # of the functions as they are now: a file may be edited meanwhile
        self._of = weakref.ref(engine)
        if found:  # after which step the engine may have been changed, unless it is resumed
            self._whole, self._saved = engine.steps, _place(engine) if resumed else _NEVER
            engine._saved = engine.steps if resumed else found[0][0], self.folder
        remove_rests(self.folder)

    def on_between(self, engine: Engine) -> None:
        """Save, if it is time."""
        self._whole = engine.steps
        if self.every is None:
            due = time.perf_counter() >= self._next
            if engine._sharded is not None:  # the first rank's clock goes for all
                due = bool(engine._sharded.ranks.exchange([due])[0][0])
        else:
            due = engine.steps % self.every == 0
        if due and (engine._agreement.first or engine._sharded is not None):
            self.save(engine)
        elif due:
            engine._saved = engine.steps, self.folder

    def on_end(self, engine: Engine) -> None:
        """Save where the run ends, if its state is whole there, and give the folder back.

        What is measured after the last step comes after `on_between`, and belongs to that state.
        """
        try:
            whole = self._whole == engine.steps and not engine._agreement.broken
            held = self._lock.held or self._held
            if held and whole and self._saved != _place(engine):
                self.save(engine)
        finally:
            self._held = False
            self._lock.release()

    @checked(SettingsError)
    def save(self, engine: Engine) -> None:
        """Save now; between two steps of the run, on all ranks where variables are sharded.

        Args:
            engine: that is run.

        Raises:
            SettingsError: the file cannot be written; earlier ones are as they were.
        """
        began = time.perf_counter()
        if engine._agreement.first:
            keep_lock(self._lock, self.folder, "Checkpoint")
        content: dict[str, Any] = run_state(engine, engine._course)
        write_checkpoint(self.folder, engine.steps, content, engine._sharded)
        self._saved = _place(engine)
        engine._saved = engine.steps, self.folder
        if engine._agreement.first:
            remove_old(self.folder, engine.steps, self.keep)
        ended = time.perf_counter()
        self._next = ended + _SPARING * (ended - began)


def _place(engine: Engine) -> tuple[int, int]:
    """After which step it stands, and after which it was measured last."""
    return engine.steps, engine._validated


def _is_one(resumed: Path | None, folder: Path) -> bool:
    """Whether a run has been resumed from this folder, by whatever name."""
    return resumed is not None and resumed.resolve() == folder.resolve()

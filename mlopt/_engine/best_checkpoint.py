"""`BestCheckpoint`: keeps the state of a run where a metric was best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._arguments import checked
from .._errors import SettingsError
from .._files import Lock
from .checkpoint_files import (
    checkpoints,
    keep_lock,
    newest,
    remove_others,
    remove_rests,
    write_checkpoint,
)  # fmt: skip
from .engine import Engine
from .fingerprint import check_fingerprint, fingerprint
from .measured import Measured, Mode, Of
from .resuming import run_state

__all__ = ["BestCheckpoint"]


class BestCheckpoint(Measured):
    """Saves the run whenever a metric has become better, and keeps that checkpoint alone.

        best = mlopt.BestCheckpoint("runs/a/best", "error")
        engine.run(epochs=100, validate=test, callbacks=[best, mlopt.Checkpoint("runs/a")])
        best.restore(engine)

    The file is one of `Checkpoint`, so `run(resume="runs/a/best")` goes on from there, too. The
    folder is its own: `Checkpoint` has another one.

    Args:
        folder: of the one checkpoint; made if it is not there.
        metric: its name.
        mode: "min" where lower is better, or "max".
        of: where it is looked for: "validation", "epoch" (its means) or "log" (logging steps).

    Attributes:
        best: the best value so far; None before the first.
        best_step: after which step it was measured.

    Raises:
        SettingsError: an option is not what it must be.
    """

    @checked(SettingsError)
    def __init__(
        self, folder: str | Path, metric: str, *, mode: Mode = "min", of: Of = "validation"
    ) -> None:
        super().__init__(metric, mode, 0.0, of)
        self.folder = Path(folder)
        self._lock = Lock(self.folder / ".lock", self.folder)
        self._due = False  # what is best is not saved yet
        self._begun = False  # what the folder holds is of this run

    def on_start(self, engine: Engine) -> None:
        """Take the folder, unless it holds what is best of another run."""
        super().on_start(engine)
        if engine._sharded is not None:
            raise SettingsError(
                "BestCheckpoint: variables are sharded, of which each rank saves its rows: it is "
                "not served. Use Checkpoint(every=...), and keep= as many as are to stay."
            )
        if not engine._agreement.first:  # the first rank writes for all
            return
        self._lock.acquire()
        try:
            if not self._begun:
                self._refuse_another(engine)
            remove_rests(self.folder)
            fingerprint(engine)  # of the functions as they are now
        except BaseException:
            self._lock.release()
            raise
        self._begun = True
        self._save(engine)

    def _measured(self, engine: Engine, better: bool) -> None:
        self._due |= better  # and saved when the state is whole

    def on_between(self, engine: Engine) -> None:
        """Save, if it is the best."""
        super().on_between(engine)
        if self._due:
            self._save(engine)

    def on_end(self, engine: Engine) -> None:
        """Save what was measured after the last step, and give the folder back."""
        try:
            whole = self._whole == engine.steps and not engine._agreement.broken
            if self._lock.held and whole:
                self._save(engine)
        finally:
            self._lock.release()

    @checked(SettingsError)
    def restore(self, engine: Engine) -> None:
        """Give an engine the state that is kept, its counters of steps and epochs among it.

        Args:
            engine: made as the one that was run, or that one.

        Raises:
            SettingsError: nothing is kept, or it is of another engine; nothing has changed then.
        """
        found = newest(self.folder, engine._sharded)
        if found is None:
            raise SettingsError(
                f"BestCheckpoint.restore: engine= cannot be given what is best: {self.folder} "
                f"holds nothing, for {self.metric!r} has not been measured."
            )
        path, content = found
        check_fingerprint(str(path), content["fingerprint"], fingerprint(engine), ())
        engine.load_state_dict(content["engine"])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "due": self._due}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._due, self._begun = state["due"], True

    def _refuse_another(self, engine: Engine) -> None:
        """A run that was killed before its first checkpoint begins anew, and may have a best."""
        found = checkpoints(self.folder)
        if found and engine._course.folder is None:
            raise SettingsError(
                f"BestCheckpoint: {self.folder} holds {found[0][1].name} of an earlier run, which "
                "this one does not go on. Give another folder, or remove it."
            )
        if found and (kept := newest(self.folder)):
            path, content = kept
            check_fingerprint(str(path), content["fingerprint"], fingerprint(engine), ())

    def _save(self, engine: Engine) -> None:
        if self._due and engine._agreement.first:
            keep_lock(self._lock, self.folder, "BestCheckpoint")
            self._due = False
            content = run_state(engine, engine._course)
            remove_others(write_checkpoint(self.folder, engine.steps, content))

"""The files of a run, by their names: what else lies in its folder is the user's, and stays."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mlopt._errors import SettingsError
from mlopt._files import FINISHED, INTERRUPTED, RUNNING, Lock, is_part, is_taken, read_state, said

__all__ = [
    "ENVIRONMENT", "LOCK", "METRICS", "RESULT", "SETTINGS", "STATE", "check_free", "is_run",
    "remove_run", "state_of",
]  # fmt: skip

SETTINGS, ENVIRONMENT, METRICS, RESULT, STATE, LOCK = (
    "settings.json", "environment.json", "metrics.jsonl", "result.json", "state.json", ".run.lock",
)  # fmt: skip
#: What `environment` always says: tells a run's file from one of that name of somebody else.
_OF_A_RUN = {"mlopt", "command", "python", "torch"}
#: What searches, retraining, the examples and reports write into a run's folder. Its environment
#: and its lock are not among them: they say whose folder it is while the others are removed.
_WRITTEN = re.compile(
    r"(settings|state|result|learners|genotype(_learner_\d+)?)\.json"
    r"|cells(_learner_\d+)?\.(svg|png)|samples\.png|report\.html|recognised\.md"
    r"|(generator|classifier|gan|retrain(_learner_\d+)?_-?\d+)\.pt|metrics\.jsonl"
    r"|\.(metrics\.jsonl|(gan|retrain_[\w-]+)\.pt)\.lock|\.retrain_[\w-]+\.pt\.before"
)
#: The same of folders in it, with all that is written there.
_FOLDERS = {
    re.compile(r"samples"): re.compile(r"epoch_\d+\.png"),
    re.compile(r"tensorboard"): re.compile(r"events\.out\.tfevents\..*"),
    re.compile(r"checkpoints(_stage_\d+)?"): re.compile(r"step_\d+\.ckpt|\.lock"),
}


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a run, by its environment.json."""
    try:
        content = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= _OF_A_RUN


def state_of(folder: Path) -> str:
    """How a run is: `running`, `interrupted` (its process has ended in it), or `finished`."""
    state = read_state(folder / STATE, folder / LOCK)
    if state:
        return state
    if is_taken(folder / LOCK):  # a run of before there were states
        return RUNNING
    return FINISHED if (folder / RESULT).is_file() else INTERRUPTED


def check_free(root: Path, overwrite: bool) -> None:
    """Refuse what cannot become the folder of a run; nothing is changed.

    Raises:
        SettingsError: it is a file, a run that may not be removed, or something else than a run.
    """
    with said(root, "read"):
        if (root.exists() or root.is_symlink()) and not root.is_dir():
            raise SettingsError(f"run folder {root}: is a file. Give another path")
        begun = root.is_dir() and _has_begun(root)
    if not begun:
        return
    if not overwrite:
        raise SettingsError(
            f"run folder {root}: already exists and is not empty. Give another path, or "
            f"overwrite=True to remove the run in it"
        )
    if not is_run(root):
        raise SettingsError(
            f"run folder {root}: has no {ENVIRONMENT} of mlopt, so it is not the folder of a run "
            f"and is not removed, overwrite=True or not. Give another path"
        )


def _has_begun(folder: Path) -> bool:
    """Whether there is more in it than a run leaves that is killed before it begins."""
    run = is_run(folder)
    ours = {LOCK, ENVIRONMENT, STATE} if run else {LOCK}
    # parts of files are left, too, and folders that have been emptied
    return any(
        item.name not in ours and not is_part(item) and not (run and _is_empty(item))
        for item in folder.iterdir()
    )


def remove_run(root: Path) -> None:
    """Remove the files of a run but its environment and lock, and the runs in its sub-folders.

    A link is removed itself, and nothing that it leads to.

    Args:
        root: the folder; who calls this holds its lock.

    Raises:
        SettingsError: another process writes to a run in a sub-folder; nothing is removed.
    """
    inner = list(_inner(root))
    for folder in inner:
        Lock(folder / LOCK, f"run folder {folder}").acquire().release()
    for folder in (root, *inner):  # first: what a kill leaves of a run is none to go on with
        (folder / SETTINGS).unlink(missing_ok=True)
    for folder in reversed(inner):  # the innermost first
        _remove_files(folder)
        (folder / ENVIRONMENT).unlink()  # last: what is left till then is still a run's
        _remove_if_empty(folder)
    _remove_files(root)


def _inner(root: Path) -> Iterator[Path]:
    """The runs in the sub-folders of a run, such as `darts/`, and in theirs."""
    for folder in _folders(root):
        if is_run(folder):
            yield folder
            yield from _inner(folder)


def _remove_files(folder: Path) -> None:
    # These first: a kill in between must not leave such a folder alone, which no run begins with.
    for inner in _folders(folder):
        for names, written in _FOLDERS.items():
            if names.fullmatch(inner.name):
                _remove_named(inner, written)
                _remove_if_empty(inner)
    _remove_named(folder, _WRITTEN)


def _remove_named(folder: Path, names: re.Pattern[str]) -> None:
    for item in list(folder.iterdir()):
        if (names.fullmatch(item.name) or is_part(item)) and not _is_folder(item):
            item.unlink()


def _folders(folder: Path) -> list[Path]:
    return [item for item in sorted(folder.iterdir()) if _is_folder(item)]


def _is_folder(item: Path) -> bool:
    return item.is_dir() and not item.is_symlink()


def _is_empty(item: Path) -> bool:
    return _is_folder(item) and not any(item.iterdir())


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()

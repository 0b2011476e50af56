"""A run that goes on where another process left it: engine, callbacks, and where it began."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from .._errors import SettingsError
from .._graph.portable import portable
from .checkpoint_files import newest
from .fingerprint import PARTS, check_fingerprint, fingerprint
from .state import give_state, save_state
from .stepper import Stepper

__all__ = ["Course", "Stateful", "check_override", "go_on", "numbered", "run_state"]

_T = TypeVar("_T")

#: What a run goes on from; without the states of its loggers these take the rows as they come.
_PARTS = ("fingerprint", "began", "validated", "engine", "callbacks")


class Stateful(Protocol):
    """What has a state, as `torch.distributed.checkpoint` calls it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> None: ...


class Course(NamedTuple):
    """The run that an engine is in, or was in last.

    Attributes:
        observers: its callbacks, and the record of its loggers, if it has some.
        began: at which step and epoch it began, in another process it may be.
        folder: from which it has been resumed, or would have been.
        record: its loggers; another process may have others.
    """

    observers: Sequence[Stateful]
    began: tuple[int, int]
    folder: Path | None
    record: Stateful


def run_state(engine: Stepper, course: Course) -> dict[str, Any]:
    """All of a run that a checkpoint holds.

    Args:
        engine: between two steps.
        course: the run.

    Returns:
        Tensors and plain values.

    Raises:
        SettingsError: somebody holds something that cannot be read back so.
    """
    return {
        "fingerprint": fingerprint(engine),
        "began": course.began,
        "validated": engine._validated,
        "engine": save_state(engine),
        "callbacks": {
            name: state
            for name, callback in numbered(o for o in course.observers if o is not course.record)
            if (state := portable(callback.state_dict(), f"{name}.state_dict()"))
        },
        "loggers": course.record.state_dict(),
    }


def go_on(
    engine: Stepper,
    load: Callable[[Any], None],
    observers: Sequence[Stateful],
    record: Stateful,
    folder: Path,
    override: Collection[str],
) -> tuple[int, int] | None:
    """Go on from the newest checkpoint of a folder, if there is one.

    Args:
        engine: made as the one that was saved.
        load: gives it its state.
        observers: the callbacks of the run.
        record: its loggers.
        folder: of the run.
        override: parts of the fingerprint that may differ.

    Returns:
        The step and the epoch at which the run began; None if it begins now.

    Raises:
        SettingsError: the checkpoint is of another run, or none of them can be read.
    """
    found = newest(folder, engine._sharded)
    if found is None:
        return None
    path, content = found
    if missing := [part for part in _PARTS if part not in content]:
        raise SettingsError(
            f"{path}: is no checkpoint of a run: {', '.join(missing)} is not in it."
        )
    check_fingerprint(str(path), content["fingerprint"], fingerprint(engine), override)
    callbacks = dict(numbered(observers))
    if missing := [name for name in content["callbacks"] if name not in callbacks]:
        raise SettingsError(
            f"{path}: holds the state of {' and '.join(missing)}, and no callback of this run is "
            "that. Give callbacks= as before, or a new folder."
        )
    try:
        load(content["engine"])
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    for name, state in content["callbacks"].items():
        give_state(callbacks[name], state, f"{path}: {name}")
    record.load_state_dict(content.get("loggers", {}))
    engine._validated = content["validated"]
    steps, epoch = content["began"]
    return steps, epoch


def check_override(override: Collection[str]) -> tuple[str, ...]:
    """The parts that may differ, each of which there is.

    Args:
        override: as it was given to `run`.

    Returns:
        The parts.

    Raises:
        SettingsError: there is no such part.
    """
    parts = tuple(override)
    if wrong := [part for part in parts if part not in PARTS]:
        raise SettingsError(
            f"run: override= names {wrong[0]!r}; it takes any of {', '.join(map(repr, PARTS))}."
        )
    return parts


def numbered(observers: Iterable[_T]) -> Iterator[tuple[str, _T]]:
    """Callbacks, or loggers, by their classes, and numbers where there are several of one.

    Args:
        observers: they.

    Yields:
        The name of each, and itself.
    """
    count = Counter[str]()
    for observer in observers:
        kind = type(observer).__name__
        count[kind] += 1
        yield kind if count[kind] == 1 else f"{kind} {count[kind]}", observer

"""Files of a run folder by their names: inside of it, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlopt._errors import DataError, SettingsError
from mlopt._files import said
from mlopt.loggers import from_json, to_json

__all__ = ["check_there", "content_of", "inside", "json_of"]


def inside(root: Path, name: str) -> Path:
    """The path of a name, if it stays in the folder, links included.

    Args:
        root: the folder.
        name: relative to it.

    Returns:
        The path.

    Raises:
        SettingsError: it leads out of the folder.
    """
    there = root.resolve()
    try:
        path = root / name
        leads_to = path.resolve()
    except (OSError, TypeError, ValueError, RuntimeError) as error:  # such as links in a circle
        raise SettingsError(
            f"run folder {root}: {name!r} is no name of a file ({error}). Give another one"
        ) from None
    if leads_to == there or not leads_to.is_relative_to(there):
        raise SettingsError(
            f"run folder {root}: {name!r} is outside. Give the name of a file in it"
        )
    return path


def check_there(root: Path) -> None:
    """Never make a folder again that somebody has removed: it would be half a run.

    Args:
        root: the folder.

    Raises:
        SettingsError: it does not exist.
    """
    with said(root, "read"):
        there = root.is_dir()
    if not there:
        raise SettingsError(f"run folder {root}: does not exist any more. Start the run anew")


def json_of(content: object, path: Path) -> str:
    """What a JSON file holds.

    Args:
        content: tensors and numbers that are not finite as in `to_json`.
        path: of the file, for the error.

    Returns:
        Its text.

    Raises:
        DataError: the content cannot be written as JSON.
    """
    try:
        plain = to_json(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def content_of(path: Path) -> Any:
    """What a JSON file says.

    Args:
        path: of the file.

    Returns:
        Its content.

    Raises:
        DataError: the file is not JSON.
        SettingsError: it cannot be read.
    """
    try:
        with said(path, "read"):
            return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}). Remove or repair the file") from None

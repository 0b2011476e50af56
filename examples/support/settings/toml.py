"""TOML: of the standard library, or of the package that it comes from before Python 3.11."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mlopt import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """The content of a file.

    Args:
        path: of the file.
        where: what errors call it.

    Raises:
        SettingsError: it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where} is not TOML: {error}.") from error


def read_value(text: str) -> Any:
    """One value as TOML writes it; text that is none is a string without quotation marks."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text

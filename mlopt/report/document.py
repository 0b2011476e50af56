"""How a report comes together: sections that may fail alone, and a file that replaces no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mlopt._errors import SettingsError
from mlopt._files import said, write_file
from mlopt.report.page import page
from mlopt.report.run_data import RunData
from mlopt.report.sections import left_out

__all__ = ["refuse_other", "write_document"]

_FOOTER = "Written by mlopt"
_AGAIN = 30  # seconds after which a browser loads the report of a run that goes on


def refuse_other(path: Path) -> None:
    """Refuse to replace a file that is no report.

    Args:
        path: the file.

    Raises:
        SettingsError: it is there, and `write_document` did not write it, by its footer.
    """
    with said(path, "read"):
        ours = not path.exists() or (path.is_file() and _FOOTER.encode() in path.read_bytes())
    if not ours:
        raise SettingsError(f"{path}: is no report, and stays as it is. Give another name")


def write_document(
    path: Path,
    title: str,
    sections: Sequence[tuple[str, Callable[[], str]]],
    runs: Sequence[RunData],
    of: str,
) -> None:
    """Write a report; a section that cannot be made is named at its end, with what was left out.

    Args:
        path: the file.
        title: plain text.
        sections: what each is called, and makes its HTML.
        runs: that it is of.
        of: whose files these are, in words.

    Raises:
        ImportError: matplotlib is not installed.
        SettingsError: the file cannot be written.
    """
    lacking = [
        f"{run.name}: {text}" if run is not runs[0] else text
        for run in runs
        for text in run.left_out
    ]
    parts = []
    for name, make in sections:
        try:
            parts.append(make())
        except ImportError:
            raise
        except Exception as error:
            lacking.append(f"The section {name}: {type(error).__name__}: {error}")
    environment = runs[0].files.get("environment")
    version = environment.get("mlopt") if isinstance(environment, dict) else None
    document = page(
        title,
        [*parts, left_out(lacking)],
        f"{_FOOTER}{f' {version}' if version else ''} from the files of {of}. This page loads "
        f"nothing and can be passed on as it is.",
        again=_AGAIN if any(run.state.name == "running" for run in runs) else 0,
    )
    write_file(path, document)

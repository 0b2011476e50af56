"""What is installed is this project."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlopt._foreign import refuse_foreign_files

ROOT = Path(__file__).resolve().parents[1]


# Files of the other project in this one's folder.


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("__init__.py", "_engine.py", "settings.py", "kkt.py"):
        (tmp_path / name).touch()
    with pytest.raises(ImportError, match=r"another project.* kkt\.py, settings\.py\. .*Uninstall"):
        refuse_foreign_files(str(tmp_path))


def test_own_files_are_not(tmp_path: Path) -> None:
    refuse_foreign_files(str(ROOT / "mlopt"))
    refuse_foreign_files(str(tmp_path / "inside.zip" / "mlopt"))  # no folder that can be listed

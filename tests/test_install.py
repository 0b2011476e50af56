"""What is installed is this project."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mlopt._foreign import refuse_foreign_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"

if not PROJECT.is_file():
    pytest.skip("no project beside these tests", allow_module_level=True)


# The name of the distribution stands in one place.


def test_no_requirement_repeats_the_name() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in sum(extras.values(), project["dependencies"]):
        assert re.split(r"[^\w.-]", requirement)[0].lower() != project["name"], requirement


def test_the_extras_contain_one_another() -> None:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    assert set(extras["nas"]) <= set(extras["test"])
    assert set(extras["all"]) == set().union(*(v for k, v in extras.items() if k != "all"))


# Files of the other project in this one's folder.


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("__init__.py", "_engine.py", "settings.py", "kkt.py"):
        (tmp_path / name).touch()
    with pytest.raises(ImportError, match=r"another project.* kkt\.py, settings\.py\. .*Uninstall"):
        refuse_foreign_files(str(tmp_path))


def test_own_files_are_not(tmp_path: Path) -> None:
    refuse_foreign_files(str(ROOT / "mlopt"))
    refuse_foreign_files(str(tmp_path / "inside.zip" / "mlopt"))  # no folder that can be listed

"""Every public name exists, and says what it is."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "mlopt"
PACKAGES = ["mlopt", "mlopt.loggers", "mlopt.report"]
if not (ROOT / "__init__.py").exists():
    pytest.skip("mlopt/__init__.py does not exist yet", allow_module_level=True)

NAMES = [
    (package, name)
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if not (name.startswith("__") and name.endswith("__"))
]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{p}.{n}" for p, n in NAMES])
def test_public_name_exists_and_has_a_docstring(package: str, name: str) -> None:
    public = getattr(importlib.import_module(package), name)
    if inspect.ismodule(public) or inspect.isroutine(public) or inspect.isclass(public):
        assert inspect.getdoc(public), f"{package}.{name} has no docstring"
        # inspect.getdoc finds a base class's text: a class has to have its own
        assert not inspect.isclass(public) or public.__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_listed_once(package: str) -> None:
    names = list(importlib.import_module(package).__all__)
    assert len(names) == len(set(names)), f"{package}.__all__ repeats a name"


def test_importing_mlopt_does_not_import_the_optional_packages() -> None:
    code = (
        "import sys, mlopt; print([m for m in ('matplotlib', 'sklearn', 'torchvision', 'wandb',"
        " 'betty') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "[]", f"import mlopt loads {found.stdout.strip()}"

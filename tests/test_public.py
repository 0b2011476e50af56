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


def test_public_names_exist_and_have_docstrings() -> None:
    for package, name in NAMES:
        public = getattr(importlib.import_module(package), name)
        if inspect.ismodule(public) or inspect.isroutine(public) or inspect.isclass(public):
            # inspect.getdoc finds a base class's text: a class has to have its own
            text = public.__doc__ if inspect.isclass(public) else inspect.getdoc(public)
            assert text, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_listed_once(package: str) -> None:
    names = list(importlib.import_module(package).__all__)
    assert len(names) == len(set(names)), f"{package}.__all__ repeats a name"


OPTIONAL = ("matplotlib", "sklearn", "torchvision", "tensorboard", "wandb", "betty")


def test_importing_mlopt_asks_for_no_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported again: nothing of mlopt is kept, and whoever asks for such a package is noted."""
    asked = []

    class Noted:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            asked.append(name)

    before = dict(sys.modules)
    monkeypatch.setattr(sys, "meta_path", [Noted(), *sys.meta_path])
    try:
        for name in before:
            if name.partition(".")[0] in ("mlopt", *OPTIONAL):
                del sys.modules[name]
        importlib.import_module("mlopt")
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
        sys.modules.update(before)
    assert "mlopt._engine" in asked
    assert not {name.partition(".")[0] for name in asked} & set(OPTIONAL)


def test_a_process_that_imports_mlopt_has_neither_optional_packages_nor_torchs_compiler() -> None:
    # The compiler takes longer to import than all else; the first optimizer of a process loads it.
    others = (*OPTIONAL, "torch._dynamo")
    code = f"import sys, mlopt; print([m for m in {others} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "[]", f"import mlopt loads {found.stdout.strip()}"

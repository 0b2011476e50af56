"""What is installed is this project: by no hint another one, from a wheel, and alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from pages import programs

import mlopt
from mlopt._foreign import refuse_foreign_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"

if not PROJECT.is_file():
    pytest.skip("no project beside these tests", allow_module_level=True)


# On PyPI the name mlopt belongs to another project: nothing here may install it by that name.

_NAME = re.compile(
    r"""\b(?:pip|pip3|pipx|uv|poetry|conda)\ +(?:install|download|wheel|add)\b
        [^\n`#;|&)]*?               # options and other packages, within one command
        (?<![\w./-])mlopt(?![\w./*-])""",
    re.VERBOSE,
)


def installs_by_name(text: str) -> list[str]:
    """Commands that fetch what the public index has under the name mlopt."""
    text = re.sub(r"\\\n\s*", "", text)  # a command that goes on in the next line
    text = re.sub(r"""["']\n\s*[rf]*["']""", "", text)  # and a string of a program
    return _NAME.findall(text)


def texts() -> list[Path]:
    """Everything that a reader or a program takes commands from, but this file."""
    files = [p for p in ROOT.iterdir() if p.is_file()]
    for folder in (".ci", "benchmarks", "docs", "examples", "mlopt", "tests"):
        files += (ROOT / folder).rglob("*")
    kinds = {"", ".cff", ".cfg", ".in", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
    return sorted(
        p for p in files if p.is_file() and p.suffix in kinds and p != Path(__file__).resolve()
    )


def test_nothing_installs_mlopt_by_name() -> None:
    found = {p.relative_to(ROOT).as_posix(): installs_by_name(p.read_text()) for p in texts()}
    assert {"README.md", "Makefile", "docs/install.md", "mlopt/nas/draw.py"} <= found.keys()
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    "text",
    [
        "pip install mlopt",
        'run pip install "mlopt[nas]".',
        "`pip install -U mlopt`",
        "python -m pip install --quiet torch mlopt==0.1",
        "raise E('pip install '\n    'mlopt[nas]')",
        "pip install \\\n  mlopt",
        "uv add mlopt",
        "pip download mlopt",
    ],
)
def test_a_command_with_the_name_is_found(text: str) -> None:
    assert installs_by_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install .  # mlopt, from its checkout",
        'pip install -e ".[nas]"',
        "pip install dist/*.whl",
        "pip install dist/mlopt-0.1.0-py3-none-any.whl",
        "(`pip install scikit-learn`); the others need nothing but mlopt",
        "pip install mlopt-tools",
    ],
)
def test_other_commands_are_not(text: str) -> None:
    assert not installs_by_name(text)


def test_no_requirement_repeats_the_name() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in sum(extras.values(), project["dependencies"]):
        assert re.split(r"[^\w.-]", requirement)[0].lower() != project["name"], requirement


def test_the_extras_contain_one_another() -> None:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    assert set(extras["nas"]) <= set(extras["test"])
    assert set(extras["all"]) == set().union(*(v for k, v in extras.items() if k != "all"))


def test_the_citation_is_of_this_version() -> None:
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {mlopt.__version__}\n" in cited


# Files of the other project in this one's folder.


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    for name in ("__init__.py", "_engine.py", "settings.py", "kkt.py"):
        (tmp_path / name).touch()
    with pytest.raises(ImportError, match=r"another project.* kkt\.py, settings\.py\. .*Uninstall"):
        refuse_foreign_files(str(tmp_path))


def test_own_files_are_not(tmp_path: Path) -> None:
    refuse_foreign_files(str(ROOT / "mlopt"))
    refuse_foreign_files(str(tmp_path / "inside.zip" / "mlopt"))  # no folder that can be listed


# The wheel, alone in an environment of its own.


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel of `make wheel`, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mlopt", source / "mlopt", ignore=shutil.ignore_patterns("__pycache__"))

    home = folder / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"

    (home / ".mlopt-installed").touch()
    run("make", "-C", source, "wheel", f"VENV={home}", f"BIN={Path(sys.executable).parent}")
    (wheel,) = (source / "dist").glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel)

    # torch and what else is needed are those of this environment, behind the wheel; its own .pth
    # files are not read, so no editable installation comes with them
    theirs = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(theirs))
    shutil.rmtree(source / "mlopt")
    return python


def run(*command: str | Path) -> str:
    """What a command prints; if it fails, the test does, with all of that."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE", "PIP"))}
    clean["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=clean, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


CHECK = """
import pathlib, sys

package = pathlib.Path(sys.prefix).resolve().rglob("mlopt/__init__.py")
folder = next(package).parent
for name in ("betty", "matplotlib", "tensorboard", "torchvision", "wandb"):  # of extras: not here
    sys.modules[name] = None

foreign = folder / "kkt.py"
foreign.touch()
try:
    import mlopt
except ImportError as error:
    assert "kkt.py" in str(error), error
else:
    raise AssertionError("foreign files were not noticed")
foreign.unlink()

import mlopt
assert pathlib.Path(mlopt.__file__).resolve().parent == folder, mlopt.__file__
assert (folder / "py.typed").exists()
(info,) = folder.parent.glob("*.dist-info/METADATA")
assert f"Version: {mlopt.__version__}" in info.read_text().splitlines(), info
"""


def test_the_wheel_alone_runs_the_first_example(python: Path, tmp_path: Path) -> None:
    source, printed = programs(ROOT / "README.md")[0]
    program = tmp_path / "first.py"
    program.write_text(f"{CHECK}\n{source}")
    assert run(python, program).rstrip() == printed.rstrip()

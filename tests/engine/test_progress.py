"""The progress bar: its phases and epochs, where it is shown, and where it is not."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from engine.metered import metrics_case
from small import batches, bilevel

import mlopt
from mlopt._engine.progress import phase_at


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("progress", [True, False])
def test_a_terminal_shows_it(monkeypatch: pytest.MonkeyPatch, progress: bool) -> None:
    _, engine = metrics_case()
    monkeypatch.setattr(sys, "stderr", Terminal())
    engine.run(epochs=2, progress=progress)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    for text in ("6/6", "epoch 1 of 2", "epoch 2 of 2", "tune/loss"):
        assert (text in shown) == progress
    assert bool(shown) == progress


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    _, engine = metrics_case()
    engine.run(epochs=2)
    assert capsys.readouterr() == ("", "")


NAMES = {"fit": "weights alone", "tune": "search"}


@pytest.mark.parametrize(
    ("starts", "names", "expected"),
    [
        ((0, 2), NAMES, ["weights alone", "weights alone", "search", "search"]),
        ((0, 0), NAMES, ["search"] * 4),
        ((1, 1), NAMES, ["", "search", "search", "search"]),
        ((2, 0), NAMES, ["search", "search", "weights alone", "weights alone"]),
        ((0, 2), {}, ["fit", "fit", "", ""]),
        ((0, 2), {"tune": "search"}, ["fit", "fit", "search", "search"]),
    ],
)
def test_a_phase_begins_with_its_problem(
    starts: tuple[int, int], names: dict[str, str], expected: list[str]
) -> None:
    lower, upper = ({"start": start} for start in starts)
    case = bilevel(lower=lower, upper=upper)
    graph = mlopt.Graph([case.lower, case.upper])
    assert [phase_at(graph, epoch, names) for epoch in range(4)] == expected


def test_the_bar_names_phase_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bilevel(train=batches(2), valid=batches(2), upper={"start": 1}).engine()
    monkeypatch.setattr(sys, "stderr", Terminal())
    engine.run(epochs=2, phases=NAMES)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "weights alone, epoch 1 of 2:   0%" in shown
    assert "search, epoch 2 of 2: 100%" in shown


def test_a_phase_of_nobody_is_refused() -> None:
    with pytest.raises(mlopt.SettingsError, match=r"phases= names the problem 'fat'; .* fit, tune"):
        bilevel().engine().run(steps=1, phases={"fat": "search"}, progress=False)


NOTEBOOK = """
import sys, types, warnings
warnings.simplefilter("error")
ipython = types.ModuleType("IPython")
ipython.get_ipython = lambda: types.SimpleNamespace(config={{"IPKernelApp": {{}}}})
ipython.version_info = (8, 0)
sys.modules["IPython"] = sys.modules["ipykernel.zmqshell"] = ipython  # as versions of tqdm ask
{widgets}
import mlopt._engine.progress as progress
bar = progress._bar(True, total=3)
print(type(bar).__module__, bar.disable)
"""


@pytest.mark.parametrize(
    ("widgets", "expected"),
    [
        ("sys.modules['ipywidgets'] = None", "tqdm.std True"),  # no terminal, so none
        (
            """
            import tqdm.notebook
            tqdm.notebook.IProgress = object
            made = lambda self, *a, **k: setattr(self, "disable", k["disable"])
            tqdm.notebook.tqdm_notebook.__init__ = made
            tqdm.notebook.tqdm_notebook.__del__ = lambda self: None
            """,
            "tqdm.notebook False",
        ),
    ],
)
def test_a_notebook_shows_a_widget(tmp_path: Path, widgets: str, expected: str) -> None:
    """Without widgets, the bar of a terminal, and no warning."""
    program = NOTEBOOK.format(widgets=textwrap.dedent(widgets))
    done: Any = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (expected, 0), done.stderr

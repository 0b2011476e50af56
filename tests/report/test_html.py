"""The report is one sound HTML file: complete, harmless, whole even if most data is missing."""

from __future__ import annotations

import math
import re
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlopt._errors import SettingsError
from mlopt.report import RunFolder, write_report
from mlopt.report.__main__ import main
from mlopt.report.run_data import RunData

pytest.importorskip("matplotlib")
VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> $\\frac$ \x00'


class Checker(HTMLParser):
    """Collects tags and text, and fails on tags that are not balanced."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def check(path: Path) -> Checker:
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    ids = [attributes["id"] for _, attributes in checker.tags if "id" in attributes]
    for tag, attributes in checker.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "foreignobject"}
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                assert (value or "").startswith(("data:", "#")), f"{tag} loads {value}"
                assert not (value or "").startswith("#") or (value or "")[1:] in ids
        for target in re.findall(r"url\(([^)]*)\)", attributes.get("style") or ""):
            assert target.strip("'\"").startswith("#")
    return checker


def headings(checker: Checker, path: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(run: RunFolder) -> Path:
    return write_report(run)


def test_a_full_run_shows_every_section(report: Path) -> None:
    path = report
    checker = check(path)
    assert len(headings(checker, path)) == 7
    for expected in ("LFM-CW", "DARTS", "1.67 ± 0.68", "logistic regression", "chance", "entropy"):
        assert expected in checker.text
    assert "cannot tell them apart" in checker.text
    images = [attributes for tag, attributes in checker.tags if tag == "img"]
    assert len(images) == 4 + 6  # cells of two runs; six of the seven grids of images
    assert all(attributes["alt"] for attributes in images)
    assert "epoch 11" in checker.text
    assert path.stat().st_size < 2_000_000
    assert not re.search(r"#0[1-8]0[1-8]0[1-8]", path.read_text()), "a stand-in colour was left"


def test_the_table_has_a_column_for_what_a_row_has(tmp_path: Path) -> None:
    figures = {"parameters": 1, "multiply_adds": 123457, "test_error_top5": 7.25, "deviation": 0.5}
    seen = {}
    for name, more in {"all": figures, "none": {}}.items():
        with RunFolder.create(tmp_path / name, {}) as folder:
            rows = [{"name": "DARTS", "test_error": 3.0, **more}, {"name": "chance"}]
            folder.save_json("result.json", {"title": "A run", "rows": rows})
        seen[name] = write_report(folder).read_text(encoding="utf-8")
    heads = {
        name: set(re.findall(r"<th(?: [^>]*)?>(.*?)</th>", text)) for name, text in seen.items()
    }
    added = {
        "parameters of the network",
        "multiply-adds",
        "top-5 error, %",
        "deviation over seeds, %",
    }
    assert heads["all"] - heads["none"] == added
    assert "test error, % (± standard error)" in heads["none"]
    assert all(value in seen["all"] for value in ("123,457", "7.25", "0.5"))


def test_an_empty_run_has_only_its_settings(tmp_path: Path) -> None:
    path = write_report(RunFolder.create(tmp_path / "empty", {"epochs": 1}))
    assert headings(check(path), path) == ["Settings and environment"]


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for epoch in range(3):
            metrics = {"train/error": 10.0 - epoch, "train/loss": math.nan}
            folder.log("retrain", epoch=epoch, **metrics)
    path = write_report(folder)
    checker = check(path)
    assert headings(checker, path) == ["Training curves", "Settings and environment"]
    assert "train · loss" not in checker.text


@pytest.mark.filterwarnings("ignore:Glyph")
def test_hostile_names_are_text(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {HOSTILE: HOSTILE}) as folder:
        for step in range(4):
            metrics = {f"{HOSTILE}/loss": 1.0 / (step + 1), "class_losses": [1.0, 2.0 - step]}
            folder.log("search", step=step, epoch=step // 2, **metrics)
    rows = [{"name": HOSTILE, "test_error": 0.0}, {"name": "$x$ <b>", "test_error": 3.0}]
    result = {"title": HOSTILE, "dataset": HOSTILE, "class_names": [HOSTILE], "rows": rows}
    folder.save_json("result.json", result | {"notes": [HOSTILE]})
    folder.save_json("genotype.json", {"normal": HOSTILE})
    folder.path("cells.svg").write_text("<svg><script>alert(3)</script></svg>")
    folder.path("samples/epoch_1.png").write_bytes(b"not a picture")
    path = write_report(folder)
    text = check(path).text
    assert text.count("<script>alert(1)</script>") >= 8
    assert "<script" not in path.read_text(encoding="utf-8")
    assert "\x00" not in path.read_text(encoding="utf-8")


def test_malformed_files_do_not_break_the_report(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.log("search", step=0, **{"a/loss": "high", "class_losses": [None, "x", 1.0]})
        folder.log("search", step=1, epoch=1, **{"a/loss": math.inf, "class_losses": 3.0})
    for content in ([1], {"rows": 3, "notes": 4, "class_names": 5}, {"rows": [{"name": "a"}, 7]}):
        folder.save_json("result.json", content)
        check(write_report(folder))


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step in (0, 1, 2, 1, 2, 3):
            folder.log("search", step=step, epoch=0, **{"a/loss": float(step)})
    line = RunData.read(folder.root, "run").line("search", "a/loss")
    assert list(line.y) == [0.0, 1.0, 2.0, 3.0]
    assert list(line.x) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("elapsed", [True, False])
def test_time_of_a_step_is_read_from_either_kind_of_seconds(tmp_path: Path, elapsed: bool) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        for step in (9, 19, 29, 39):
            wobble = 0.01 * (-1) ** (step // 10)
            seconds = 0.5 * (step + 1) if elapsed else 0.5 + wobble
            folder.log("search", step=step, epoch=0, seconds=seconds)
    run = RunData.read(folder.root, "run")
    expected = [0.5] * 4 if elapsed else [0.51, 0.49, 0.51, 0.49]
    assert run.seconds("search") == expected


def test_the_same_run_gives_the_same_report(run: RunFolder, report: Path) -> None:
    first = report.read_bytes()
    assert write_report(run).read_bytes() == first


def test_the_command_line_writes_it_and_explains_a_wrong_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    monkeypatch.setattr(sys, "argv", ["mlopt.report", str(folder.root)])
    monkeypatch.delitem(sys.modules, "mlopt.report.__main__")  # runpy warns of what is imported
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mlopt.report", run_name="__main__")
    assert not ended.value.code
    assert Path(capsys.readouterr().out.strip()) == folder.root / "report.html"
    monkeypatch.setattr(sys, "argv", ["mlopt.report", str(tmp_path)])
    assert main() == 2
    assert "not the folder of a run" in capsys.readouterr().err


def test_without_matplotlib_the_error_names_the_package(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        write_report(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        write_report(tmp_path)

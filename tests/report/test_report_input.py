"""Whatever is in the files of a run, there is a report, and it says what it leaves out."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlopt._errors import SettingsError
from mlopt.report import RunFolder, html, write_report

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore:Glyph")


def left_out(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    part = text.partition("<h2>Left out</h2>")[2]
    return re.findall(r"<li>(.*?)</li>", part)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    with RunFolder.create(tmp_path / "run", {"epochs": 1}) as folder:
        return folder


ROW = '{"name": "a", "test_error": 1.5}'
FILES = {
    "half a character": ("result.json", f'{{"title": "\\ud800", "rows": [{ROW}]}}', None),
    "half a character in a name": (
        "result.json", f'{{"rows": [{ROW}, {{"name": "\\ud800", "test_error": 2}}]}}', None),
    "a list for a name": ("result.json", '{"rows": [{"name": ["a"], "test_error": 1}]}', "row 1"),
    "no row": ("result.json", f'{{"rows": [{ROW}, 7]}}', "result.json, row 2: is no object"),
    "no number": ("result.json", '{"rows": [{"name": "a", "test_error": "x"}]}',
                  "result.json, row 1: its test_error is no number"),
    "no number at the top": ("result.json", '{"test_error": "x"}',
                             "result.json: its test_error is no number"),
    "a list at the top": ("result.json", f'{{"rows": [{ROW}], "standard_error": [1]}}',
                          "result.json: its standard_error is no number"),
    "no name": ("result.json", f'{{"rows": [{ROW}, {{"test_error": 1}}]}}', "row 2: has no name"),
    "no notes": ("result.json", '{"notes": "x"}', "result.json: notes is no list"),
    "no result": ("result.json", "[]", "result.json: is no JSON object"),
    "nothing": ("result.json", "null", "result.json: is no JSON object"),
    "no settings": ("settings.json", "[1, 2]", "settings.json: is no JSON object"),
    "no cell": ("genotype.json", '{"normal": 5}', "genotype.json: normal is no list"),
    "no genotype": ("genotype.json", "[]", "genotype.json: is no JSON object"),
    "a number of learners": ("learners.json", "3", "learners.json: is no JSON object"),
    "no list": ("result.json", '{"rows": {"a": 1}}', "no list"),
    "no JSON": ("result.json", '{"rows": ', "is not JSON"),
    "no text": ("settings.json", b"\xff\xfe\x00", "settings.json: is not JSON"),
    "deep": ("result.json", "[" * 100_000, "result.json: is not JSON"),
    "deep enough": ("genotype.json", "[" * 200 + "]" * 200, "genotype.json: has more than 40"),
    "digits": ("result.json", f'{{"rows": [{{"name": "a", "test_error": {"9" * 5000}}}]}}',
               "result.json: is not JSON"),
    "a large number": ("result.json", f'{{"rows": [{{"name": "a", "test_error": {10**400}}}]}}',
                       None),
    "no error at all": ("result.json", '{"rows": [{"name": "a", "test_error": 1, "standard_error":'
                        ' 0}, {"name": "b", "test_error": 2, "standard_error": 0}]}', None),
    "not finite": ("result.json", '{"rows": [{"name": "a", "test_error": NaN, "parameters": '
                   'Infinity}]}', None),
    "far apart": ("metrics.jsonl", '{"phase": "retrain", "epoch": 1, "train/loss": 1e308}\n'
                  '{"phase": "retrain", "epoch": 2, "train/loss": -1e308}\n', None),
    "hardly anything": ("metrics.jsonl", '{"phase": "retrain", "epoch": 1, "train/loss": 5e-324}\n'
                        '{"phase": "retrain", "epoch": 2, "train/loss": 1}\n', None),
    "a torn line": ("metrics.jsonl", '{"phase": "a", "x": 1}\n{"phase": "a", "x"', None),
    "a broken line": ("metrics.jsonl", '{"a": 1}\nnot json\n{"a": 2}\n', "line 2"),
    "positions": ("metrics.jsonl", '{"phase": "search", "epoch": "x", "step": [], "a/loss": 1}\n'
                  '{"phase": ["search"], "epoch": 1e300, "a/loss": 1}\n', None),
    "no learners": ("learners.json", '{"learners": [{"name": []}], "pairs": [[]]}',
                    "learners.json, pair 1: is no object"),
    "no environment": ("environment.json", "[1]", "environment.json: is no JSON object"),
    "no picture": ("cells.svg", "not drawn", "cells.svg: is no picture"),
    "no image": ("samples/epoch_0001.png", "x", "samples/epoch_0001.png: is no picture"),
    "something else": ("cells.txt", "mine", None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), FILES.values(), ids=FILES)
def test_a_malformed_part_is_left_out_and_said(folder, name, content, said) -> None:
    path = folder.path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = left_out(write_report(folder))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize("name", ["metrics.jsonl", "genotype.json"])
def test_a_folder_in_the_place_of_a_file_is_said(folder: RunFolder, name: str) -> None:
    (folder.root / name).mkdir()
    (said,) = left_out(write_report(folder))
    assert name in said


def test_a_run_beside_it_is_named(folder: RunFolder) -> None:
    other = RunFolder.create(folder.root / "darts", {})
    other.path("metrics.jsonl").write_text("[]\n{}\n")
    assert left_out(write_report(folder))[0].startswith("darts: metrics.jsonl, line 1")


def test_a_section_that_cannot_be_made_leaves_the_others(folder, monkeypatch) -> None:
    """Nothing in the files is known to do this; if something does, the report says so."""

    def fail(runs: object) -> str:
        raise RuntimeError("<b>no memory</b>")

    monkeypatch.setattr(html, "cost", fail)
    path = write_report(folder)
    assert left_out(path) == ["The section Cost: RuntimeError: &lt;b&gt;no memory&lt;/b&gt;"]
    assert "<h2>Settings and environment</h2>" in path.read_text()


def test_many_are_counted(folder: RunFolder) -> None:
    folder.path("metrics.jsonl").write_text('{"a": 1}\n' + "x\n" * 30 + '{"a": 2}\n')
    path = write_report(folder)
    assert len(left_out(path)) == 20
    assert "And 10 more." in path.read_text()


NUMBERS = st.floats() | st.integers() | st.sampled_from([0, 1e308, -1e308, 5e-324, 10**400, True])
TEXTS = st.text(max_size=6) | st.sampled_from(["a", "\ud800", "<b>", "$\\frac$", "NaN", "\x00"])
ANY = st.recursive(
    NUMBERS | TEXTS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
RESULT_ROW = st.fixed_dictionaries(
    {},
    optional={"name": TEXTS | ANY, "test_error": NUMBERS | ANY, "standard_error": NUMBERS | ANY,
              "parameters": NUMBERS | ANY, "memory_mb": ANY, "search_seconds": ANY, "passes": ANY},
)  # fmt: skip
RESULT = st.fixed_dictionaries(
    {},
    optional={"title": ANY, "dataset": ANY, "class_names": ANY, "notes": ANY,
              "rows": st.lists(RESULT_ROW | ANY, max_size=4)},
)  # fmt: skip
METRIC = st.fixed_dictionaries(
    {"phase": st.sampled_from(["search", "search-epoch", "retrain"]) | ANY},
    optional={"step": NUMBERS | ANY, "epoch": NUMBERS | ANY, "seconds": NUMBERS | ANY,
              "train/loss": NUMBERS, "learner_1/validation/loss": NUMBERS, "skips/normal": NUMBERS,
              "alarms": st.lists(TEXTS | ANY, max_size=2) | ANY,
              "class_losses": st.lists(NUMBERS, max_size=3) | ANY},
)  # fmt: skip
LEARNERS = st.fixed_dictionaries(
    {},
    optional={"learners": st.lists(RESULT_ROW | ANY, max_size=3), "pairs": st.lists(
        st.fixed_dictionaries({}, optional={"names": ANY, "edges": NUMBERS | ANY}), max_size=2)},
)  # fmt: skip


@pytest.mark.parametrize("examples", [12, pytest.param(600, marks=pytest.mark.slow)])
def test_there_is_a_report_of_every_content(folder: RunFolder, examples: int) -> None:
    """Nothing but the names and kinds of rows is left out: no section of it fails."""

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(RESULT | ANY, st.lists(METRIC | ANY, max_size=5), LEARNERS | ANY, ANY)
    def holds(result, rows, learners, other) -> None:
        def write(name: str, *lines: object) -> None:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            folder.path(name).write_text(text)

        write("result.json", result)
        write("metrics.jsonl", *rows)
        write("learners.json", learners)
        write("settings.json", other)
        write("environment.json", other)
        write("genotype.json", other)
        assert not [text for text in left_out(write_report(folder)) if "section" in text]

    holds()


# Where it is written.


def test_only_a_report_is_written_again(folder: RunFolder) -> None:
    path = write_report(folder, "mine.html")
    assert write_report(folder, "mine.html") == path
    folder.path("notes.html").write_text("<p>years of work</p>")
    for name, said in {
        "notes.html": "is no report",
        "settings.json": "is no report",
        "../report.html": "outside",
        "": "outside",
        ".": "outside",
        "/tmp/report.html": "outside",
        "a\0b": "no name of a file",
    }.items():
        before = sorted(folder.root.parent.rglob("*"))
        with pytest.raises(SettingsError, match=said):
            write_report(folder, name)
        assert sorted(folder.root.parent.rglob("*")) == before
    assert folder.path("notes.html").read_text() == "<p>years of work</p>"


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_that_leads_out_is_not_followed(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (folder.root / "samples").symlink_to(tmp_path / "theirs")
    (folder.root / "report.html").symlink_to(tmp_path / "theirs" / "page.html")
    (folder.root / "circle").symlink_to(folder.root / "circle")
    for name in ("samples/x.png", "report.html"):
        with pytest.raises(SettingsError, match="outside"):
            folder.save(name, b"x")
    with pytest.raises(SettingsError, match="outside"):
        write_report(folder)
    with pytest.raises(SettingsError, match="no name of a file|cannot be written"):
        folder.save("circle/x", b"x")
    assert list((tmp_path / "theirs").iterdir()) == []

"""One writer a folder; whatever is killed, every file is whole and the next command can begin."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from children import kill, killed_at, running

from mlopt._errors import DataError, SettingsError
from mlopt.report import RunFolder, run_folder, write_report

forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one asks git, which takes longer than all else here."""
    found = dict.fromkeys(["mlopt", "command", "python", "torch"], "1")
    monkeypatch.setattr(run_folder, "environment", lambda: found)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# Writers of one process.


def test_a_second_object_reads_and_does_not_write(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {"a": 1}) as first:
        first.log("search", step=1)
        second = RunFolder.open(tmp_path / "run")
        assert second.metrics() == [{"phase": "search", "step": 1}]
        before = files(first.root)
        for write in (
            lambda: second.log("search", step=2),
            lambda: second.save("notes.md", "mine"),
            lambda: second.save_json("result.json", {}),
        ):
            with pytest.raises(SettingsError, match="run: this process already writes to it"):
                write()
        assert files(first.root) == before
    second.log("search", step=2)
    second.close()
    assert [row["step"] for row in first.metrics()] == [1, 2]
    there = {"settings.json", "environment.json", "metrics.jsonl", "state.json"}
    assert set(files(first.root)) == there


def test_a_file_saved_after_the_run_locks_nothing(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {}).close()
    opened, other = RunFolder.open(tmp_path / "run"), RunFolder.open(tmp_path / "run")
    opened.save("notes.md", "a")
    other.save("notes.md", "b")
    assert (opened.root / "notes.md").read_text() == "b"


def test_overwriting_in_one_process_closes_the_object_before(tmp_path: Path) -> None:
    """As a notebook does that runs a cell again; the object before cannot write any more."""
    old = RunFolder.create(tmp_path / "run", {"a": 1})
    old.log("search", step=1)
    new = RunFolder.create(tmp_path / "run", {"a": 2}, overwrite=True)
    new.log("search", step=2)
    with pytest.raises(SettingsError, match="already writes"):
        old.log("search", step=3)
    assert [row["step"] for row in new.metrics()] == [2]
    new.close()


# Writers of several processes.


@pytest.mark.parametrize("place", ["run", "run/darts"])
def test_another_process_is_refused_while_the_first_lives(tmp_path: Path, place: str) -> None:
    """Also if it writes to the run that lies in the folder, which overwriting would remove."""
    RunFolder.create(tmp_path / "run", {"a": 1}).close()

    def work(ready) -> None:
        with RunFolder.create(tmp_path / place, {"a": 1}, overwrite=True) as folder:
            folder.log("search", step=1)
            ready()
            signal.pause()

    with running(work) as child:
        before = files(tmp_path)
        with pytest.raises(SettingsError, match=f"run folder .*{place}: another process writes"):
            RunFolder.create(tmp_path / "run", {"a": 2}, overwrite=True)
        write_report(tmp_path / place)  # which is for those who look on
        report = f"{place}/report.html"
        assert {k: v for k, v in files(tmp_path).items() if k != report} == before
        kill(child)
    with RunFolder.open(tmp_path / place) as folder:
        folder.log("search", step=2)
        assert [row["step"] for row in folder.metrics()] == [1, 2]
    RunFolder.create(tmp_path / "run", {"a": 2}, overwrite=True).close()


test_another_process_is_refused_while_the_first_lives.pytestmark += forks


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [False, True], ids=["new", "overwritten"])
def test_killed_anywhere_a_beginning_does_not_block_the_next(
    tmp_path: Path, stride: int, first: bool
) -> None:
    """Lines of the run folder and of the files below it; then the same command, or overwriting."""
    root, line, begun = tmp_path / "run", 0, set()

    def work() -> None:
        RunFolder.create(root, {"a": 1}, overwrite=first).close()

    while True:
        if first:
            with RunFolder.create(root, {"a": 0}, overwrite=True) as old:
                old.save("samples/epoch_0001.png", b"x")
        if not killed_at(line, ("run_folder.py", "_files/atomic.py"), work):
            break
        left = files(root) if root.exists() else {}
        assert all(json.loads(left[name]) for name in left if name.endswith(".json"))
        whole = bool(left.keys() & {"settings.json", "samples/epoch_0001.png"})
        if whole:
            with pytest.raises(SettingsError, match="already exists"):
                RunFolder.create(root, {"a": 2})
        RunFolder.create(root, {"a": 2}, overwrite=whole).close()
        begun.add(whole)
        assert RunFolder.open(root).read_json("settings.json") == {"a": 2}
        assert set(files(root)) == {"settings.json", "environment.json", "state.json"}
        shutil.rmtree(root)
        line += stride
    assert line > 50
    assert begun == {True, False}


test_killed_anywhere_a_beginning_does_not_block_the_next.pytestmark += forks


# What is not ours.


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"python": "3.11"}', "[" * 100_000], ids=range(5)
)
def test_a_folder_with_files_of_those_names_is_not_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text('{"editor.fontSize": 12}')
    (tmp_path / "environment.json").write_text(content)
    (tmp_path / "thesis.tex").write_text("years of work")
    before = files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(SettingsError, match="already exists|not the folder of a run"):
            RunFolder.create(tmp_path, {}, overwrite=overwrite)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["../x.json", "a/../../x.json", "", ".", "..", "/x.json", "a\0b", 3, None]
)
def test_names_stay_inside_the_folder(tmp_path: Path, name) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        (tmp_path / "x.json").write_text("{}")
        before = files(tmp_path)
        for use in (
            lambda: folder.path(name),
            lambda: folder.save(name, "x"),
            lambda: folder.save_json(name, {}),
            lambda: folder.read_json(name),
        ):
            with pytest.raises(SettingsError, match="outside|no name of a file|must be a str"):
                use()
        assert files(tmp_path) == before
        folder.save("a/../b/c.md", "inside")
        assert (folder.root / "b" / "c.md").read_text() == "inside"


@pytest.mark.parametrize("name", ["metrics.jsonl", ".run.lock", "./metrics.jsonl"])
def test_what_the_folder_writes_itself_is_not_written_over(tmp_path: Path, name: str) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.log("search", step=1)
        with pytest.raises(SettingsError, match="by the run folder itself"):
            folder.save(name, "x")
        assert len(folder.metrics()) == 1


def test_what_is_no_json_is_named_and_leaves_the_file(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.save_json("result.json", {"a": 1})
        with pytest.raises(DataError, match=r"result\.json: a: .*type object"):
            folder.save_json("result.json", {"a": object()})
        folder.save_json("half.json", {"a": "\ud800"})
        assert folder.read_json("half.json") == {"a": "\ud800"}
        assert folder.read_json("result.json") == {"a": 1}


def test_a_folder_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.log("search", step=1)
    (tmp_path / "run").rename(tmp_path / "away")
    for write in (lambda: folder.log("search", step=2), lambda: folder.save("a", "b")):
        with pytest.raises(SettingsError, match="does not exist"):
            write()
    assert [p.name for p in tmp_path.iterdir()] == ["away"]
    folder.close()

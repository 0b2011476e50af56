"""What a system does to the files of a run: it is said in words, and nothing of value is lost."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import ended, fork, running
from engine.test_checkpoint import Counts, made, run
from small import assert_same, state_of

import mlopt
from mlopt import CapabilityWarning, Checkpoint, SettingsError
from mlopt._engine.checkpoint_files import write_checkpoint
from mlopt._files import Lock, read_checked, write_file


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def in_child(work: Callable[[], object]) -> None:
    assert ended(fork(work)) == 0


SAVED = ["step_0000000004.ckpt", "step_0000000008.ckpt"]


class Does(mlopt.Callback):
    """Something after a step."""

    def __init__(self, at: int, work: Callable[[], object]) -> None:
        self.at, self.work = at, work

    def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        if engine.steps == self.at:
            self.work()


def run_with(folder: Path, *more: mlopt.Callback, steps: int = 12, every: int = 4) -> mlopt.Engine:
    engine = made().engine()
    callbacks = [*more, Counts(), Checkpoint(folder, every=every, keep=2)]
    engine.run(steps=steps, resume=folder, callbacks=callbacks, progress=False)
    return engine


def in_one_go(folder: Path) -> dict[str, Any]:
    return state_of(run(folder / "whole", Counts()))


# The disk.


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder, expected = tmp_path / "cut", in_one_go(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(SettingsError) as said:
        run_with(folder, Does(9, lambda: patch.setattr(os, call, full)))
    said.match(r"step_0000000012.ckpt: cannot be written \(No space .*Make room on the disk")
    assert names(folder) == SAVED
    assert_same(expected, state_of(run_with(folder)))


def test_a_disk_that_takes_no_more_bytes(tmp_path: Path) -> None:
    """Of a real limit of the system, in the middle of a file."""
    folder, expected = tmp_path / "cut", in_one_go(tmp_path)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    def work() -> None:
        with pytest.raises(SettingsError, match=r"cannot be written \(File too large\)"):
            run_with(folder, Does(9, limit))

    in_child(work)
    assert names(folder) == SAVED
    assert_same(expected, state_of(run_with(folder)))


def test_a_signal_on_a_full_disk_says_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def misfortune() -> None:
        monkeypatch.setattr(os, "fsync", full)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(mlopt.Interrupted, match="after 9 steps, of which the first 8") as ends:
        run_with(tmp_path, Does(9, misfortune))
    assert isinstance(ends.value.__cause__, SettingsError)


# Who may do what.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_folder_that_a_user_may_not_write_to(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    run_with(folder, steps=4)
    for path in (*folder.parents, folder):
        if path.is_relative_to(tmp_path.parents[2]):
            path.chmod(0o755)
    steps: list[int] = []

    def work() -> None:
        os.setuid(65534)
        with pytest.raises(SettingsError, match=r"cannot be written \(Permission denied\)"):
            run_with(folder, Does(5, lambda: steps.append(5)))
        assert not steps  # it is said before anything is computed
        with pytest.raises(SettingsError, match=r"cannot be written \(Permission denied\)"):
            run_with(folder / "below")

    in_child(work)
    assert names(folder) == SAVED[:1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_checkpoint_that_a_user_may_not_read_is_not_damaged(tmp_path: Path) -> None:
    run_with(tmp_path, steps=8)
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o777)
    (tmp_path / SAVED[1]).chmod(0o600)

    def work() -> None:
        os.setuid(65534)
        with pytest.raises(SettingsError, match=r"08.ckpt: cannot be read \(Permission denied\)"):
            run_with(tmp_path)

    in_child(work)
    assert names(tmp_path) == SAVED


def test_a_folder_that_another_process_writes_to(tmp_path: Path) -> None:
    def work(ready: Callable[[], None]) -> None:
        def wait() -> None:
            ready()
            signal.pause()

        run_with(tmp_path, Does(5, wait))

    with running(work):
        engine = made().engine()
        with pytest.raises(SettingsError, match="another process writes to it.*another place"):
            engine.run(steps=9, callbacks=[Checkpoint(tmp_path)], progress=False)
        assert engine.steps == 0
    assert_same(in_one_go(tmp_path), state_of(run_with(tmp_path)))


def test_a_folder_that_is_removed_while_a_run_saves_there(tmp_path: Path) -> None:
    folder, expected = tmp_path / "gone", in_one_go(tmp_path)
    with pytest.warns(CapabilityWarning, match="gone was removed.*It is made again"):
        run_with(folder, Does(9, lambda: shutil.rmtree(folder)), steps=10)
    assert names(folder) == ["step_0000000010.ckpt"]
    assert_same(expected, state_of(run_with(folder)))


def test_a_folder_that_is_removed_and_taken_by_another_stays_theirs(tmp_path: Path) -> None:
    folder, others = tmp_path / "gone", Lock(tmp_path / "gone" / ".lock", "theirs")

    def misfortune() -> None:
        shutil.rmtree(folder)
        others.acquire()

    with (
        pytest.warns(CapabilityWarning, match="was removed"),
        pytest.raises(SettingsError, match="already writes to it"),
    ):
        run_with(folder, Does(9, misfortune))
    assert others.held
    assert not others.lost
    assert names(folder) == [".lock"]


@pytest.mark.parametrize("taken", [False, True])
def test_the_folder_of_the_best_that_is_removed_is_taken_again(tmp_path: Path, taken: bool) -> None:
    folder, others = tmp_path / "gone", Lock(tmp_path / "gone" / ".lock", "theirs")
    best, engine, told = mlopt.BestCheckpoint(folder, "error"), made().engine(), [0.0]

    def better() -> dict[str, float]:
        told.append(told[-1] - 1)
        return {"error": told[-1]}

    def misfortune() -> None:
        shutil.rmtree(folder)
        if taken:
            others.acquire()
        else:  # from whom it is kept again from here on
            best.on_between(engine)
            with pytest.raises(SettingsError, match="already writes to it"):
                others.acquire()

    callbacks = [mlopt.Validation(better, steps=1), Does(3, misfortune), best]
    refused = pytest.raises(SettingsError, match="already writes to it")
    with (
        pytest.warns(CapabilityWarning, match="BestCheckpoint: .*gone was removed"),
        refused if taken else contextlib.nullcontext(),
    ):
        engine.run(steps=5, callbacks=callbacks, progress=False)
    assert names(folder) == ([".lock"] if taken else ["step_0000000005.ckpt"])


# Time.


def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is that of the most steps, whenever its file says that it was written."""
    folder, expected, now = tmp_path / "cut", in_one_go(tmp_path), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    run_with(folder, steps=8)
    os.utime(folder / SAVED[0], (now + 1e6, now + 1e6))
    os.utime(folder / SAVED[1], (0, 0))
    before: list[int] = []
    found = run_with(folder, Does(9, lambda: before.append(9)))
    assert before == [9]
    assert_same(expected, state_of(found))


# Files.


def test_a_file_of_another_run_among_those_of_this(tmp_path: Path) -> None:
    run_with(tmp_path / "a", steps=8)
    other = made(hypergrad=mlopt.OneStep()).engine()
    other.run(steps=9, callbacks=[Checkpoint(tmp_path / "b"), Counts()], progress=False)
    shutil.copy(tmp_path / "b" / "step_0000000009.ckpt", tmp_path / "a")
    with pytest.raises(SettingsError, match=r"09.ckpt: is of another run: fit is problem of"):
        run_with(tmp_path / "a")
    assert names(tmp_path / "a") == [*SAVED, "step_0000000009.ckpt"]


class Calls:
    """Is read by calling something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """The same archive with other parts, and the checksum of these."""
    content = read_checked(path)
    assert content is not None
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(new, "w") as packed:
        for part in old.infolist():
            packed.writestr(part, change(part.filename, old.read(part)))
    write_file(path, new.getvalue(), checksum=True)


def larger_tensor(path: Path) -> None:
    """A tensor of seven numbers that says it has 25 thousand million."""
    write_checkpoint(path.parent, 8, {"engine": torch.arange(7.0)})

    def change(name: str, data: bytes) -> bytes:
        many = b"\x8a\x05" + (25 * 10**9).to_bytes(5, "little")
        return data.replace(b"K\x07", many) if name.endswith("data.pkl") else data

    rewritten(path, change)


def larger_part(path: Path) -> None:
    """A list of parts that says that one of them has 100 GB."""
    content = bytearray(read_checked(path) or b"")
    at = content.index(b"PK\x01\x02")  # the first entry of the list
    for field in (20, 24):  # its size in the file, and unpacked
        content[at + field : at + field + 4] = b"\xfe\xff\xff\xff"
    write_file(path, bytes(content), checksum=True)


def calls(function: Any, *arguments: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_checkpoint(path.parent, 8, {"engine": Calls(function, *arguments)})

    return write


BOMBS: dict[str, Callable[[Path], None]] = {
    "a tensor that claims 100 GB": larger_tensor,
    "a part that claims 4 GB": larger_part,
    "bytes by a call": calls(bytearray, 10**11),
    "numbers by a call": calls(torch.Tensor, 10**11),
    "a command": calls(os.system, "touch exploded"),
    "code": calls(eval, "open('exploded', 'w')"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_forged_file_takes_no_memory_and_runs_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is right; 2 GB more than there are in use cannot be had."""
    monkeypatch.chdir(tmp_path)
    run_with(tmp_path, steps=8)
    BOMBS[name](tmp_path / SAVED[1])

    def work() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**31
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        if "by a call" in name:  # what it asks for cannot be told from what a run would need
            with pytest.raises(SettingsError, match="it takes more memory than there is"):
                run_with(tmp_path, steps=4)
            return
        with pytest.warns(CapabilityWarning, match="no checkpoint of an engine"):
            run_with(tmp_path, steps=4)

    in_child(work)
    assert not (tmp_path / "exploded").exists()

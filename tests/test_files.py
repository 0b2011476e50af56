"""A file is the old or the new one, a sum tells of every bit, and one writer has the lock."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import signal
import zipfile
from pathlib import Path

import pytest
from children import ended, fork, kill, killed_at, running

from mlopt._errors import CapabilityWarning, SettingsError
from mlopt._files import Lock, read_checked, remove_parts, said, write_file

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
OLD, NEW = b"old" * 1000, b"newer" * 1000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_and_permissions_are_those_of_a_plain_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "text", "ä\n")
    (tmp_path / "plain").write_bytes(b"")
    path = tmp_path / "a" / "b" / "text"
    assert path.read_bytes() == b"\xc3\xa4\n"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(path.parent) == ["text"]
    write_file(path, "\ud800")  # what no encoding has is written as its escape
    assert path.read_bytes() == b"\\ud800"


def test_a_link_is_replaced_and_its_target_left(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    write_file(tmp_path / "link", NEW)
    assert (tmp_path / "theirs").read_bytes() == OLD
    assert not (tmp_path / "link").is_symlink()


def test_killed_at_any_line_a_writer_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """Every line that `write_file` passes, until a child is not killed any more."""
    path, seen = tmp_path / "file", []

    write_file(path, OLD, checksum=True)
    while killed_at(len(seen), "_files/atomic.py", lambda: write_file(path, NEW, checksum=True)):
        seen.append(read_checked(path))
        write_file(path, OLD, checksum=True)
    assert read_checked(path) == NEW
    assert set(seen) == {OLD, NEW}
    assert len(seen) > 10
    assert len(names(tmp_path)) > 1
    remove_parts(path)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kills", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_while_bytes_are_written_a_file_is_whole(tmp_path: Path, kills: int) -> None:
    path, draw = tmp_path / "file", random.Random(7)

    def work(ready) -> None:
        for k in range(10**9):
            write_file(path, bytes([k % 256]) * 400_000, checksum=True)
            if k == 0:
                ready()

    for _ in range(kills):
        with running(work) as child:
            for _ in range(draw.randrange(1, 9)):  # some time, and each look is a check
                assert len(set(read_checked(path) or b"")) == 1
            for _ in range(draw.randrange(20_000)):
                pass
            kill(child)
            assert len(set(read_checked(path) or b"")) == 1


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def work(letter: bytes) -> None:
        for _ in range(60):
            write_file(path, letter * 100_000, checksum=True)

    left, statuses = {fork(lambda letter=letter: work(letter)) for letter in (b"a", b"b")}, []
    while left:
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                left.discard(child)
                statuses.append(status)
        assert len(set(read_checked(path) or b"a")) == 1
    assert statuses == [0, 0]
    assert names(tmp_path) == ["file"]


def test_every_bit_and_every_length_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_checked(path) is None
    write_file(path, b"weights", checksum=True)
    whole = path.read_bytes()
    assert read_checked(path) == b"weights"
    flipped = [
        whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]
        for bit in range(8 * len(whole))
    ]
    cut = [whole[:length] for length in range(len(whole))]
    for wrong in [*flipped, *cut, whole + b"\0", whole + whole[-20:]]:
        path.write_bytes(wrong)
        with pytest.raises(SettingsError, match="file: (is damaged|has no checksum)"):
            read_checked(path)


def test_an_archive_with_a_sum_is_an_archive(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", "b")
    write_file(tmp_path / "file", content.getvalue(), checksum=True)
    with zipfile.ZipFile(tmp_path / "file") as archive:
        assert archive.read("a") == b"b"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "Permission denied.*right"),
        (errno.ENOSPC, "No space left.*room"),
        (errno.EROFS, "Read-only.*another|Read-only.*written"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_what_the_system_refuses_is_said_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, at: str
) -> None:
    path = tmp_path / "file"
    write_file(path, OLD)

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, at, refuse)
        with pytest.raises(SettingsError, match=f"file: cannot be written.*{said}"):
            write_file(path, NEW)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read.*a folder"):
        read_checked(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError, match="cannot be written.*a folder"):
        write_file(tmp_path / "folder", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="cannot be written.*not a folder"):
        write_file(tmp_path / "file" / "below", b"")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_that_takes_nothing_is_not_said_to_have_been_removed() -> None:
    """In /proc, making a folder fails as in one that is not there."""
    match = "No such file.*gone, or can hold nothing new"
    with pytest.raises(SettingsError, match=match), said("/proc/run", "written"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


# Locks.


def test_one_object_has_the_lock_and_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with Lock(path, "run") as lock:
        assert lock.acquire() is lock
        with pytest.raises(SettingsError, match="run: this process already"):
            Lock(path, "run").acquire()
    lock.release()
    assert names(path.parent) == []
    dropped = Lock(path, "run").acquire()
    del dropped
    Lock(path, "run").acquire().release()


def test_another_process_is_refused_while_the_holder_lives(tmp_path: Path) -> None:
    def work(ready) -> None:
        with Lock(tmp_path / "lock", "run"):
            ready()
            signal.pause()

    with running(work) as child:
        with pytest.raises(SettingsError, match="run: another process"):
            Lock(tmp_path / "lock", "run").acquire()
        kill(child)
        assert names(tmp_path) == ["lock"]  # what it leaves locks nothing
        Lock(tmp_path / "lock", "run").acquire().release()
    assert names(tmp_path) == []


def test_a_forked_worker_does_not_inherit_it(tmp_path: Path) -> None:
    """The holder is killed while a worker of its own goes on."""
    read, write = os.pipe()

    def work(ready) -> None:
        lock = Lock(tmp_path / "lock", "run").acquire()

        def worker() -> None:
            os.write(write, f"{os.getpid()} {lock.held}".encode())
            ready()
            signal.pause()

        fork(worker)
        signal.pause()

    with running(work) as child:
        worker, held = os.read(read, 40).decode().split()
        try:
            with pytest.raises(SettingsError):
                Lock(tmp_path / "lock", "run").acquire()
            kill(child)
            Lock(tmp_path / "lock", "run").acquire().release()
        finally:
            os.kill(int(worker), signal.SIGKILL)
    assert held == "False"


def test_a_child_that_ends_gives_nothing_back(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock", "run").acquire()
    assert ended(fork(lock.release)) == 0
    assert names(tmp_path) == ["lock"]
    with pytest.raises(SettingsError):
        Lock(tmp_path / "lock", "run").acquire()
    lock.release()


def test_no_two_hold_it_at_once(tmp_path: Path) -> None:
    """Holders add to one number, while the lock file is removed and made again all the time."""
    count = tmp_path / "count"
    count.write_text("0")

    def work() -> None:
        for _ in range(40):
            lock = Lock(tmp_path / "lock", "count")
            while not lock.held:
                with contextlib.suppress(SettingsError):
                    lock.acquire()
            count.write_text(str(int(count.read_text()) + 1))
            lock.release()

    assert [ended(child) for child in [fork(work) for _ in range(3)]] == [0, 0, 0]
    assert count.read_text() == "120"


def test_a_file_in_its_place_is_neither_changed_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(OLD)
    Lock(tmp_path / "lock", "run").acquire().release()
    assert (tmp_path / "lock").read_bytes() == OLD
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(SettingsError, match="link: cannot be written"):
        Lock(tmp_path / "link", "run").acquire()
    assert not (tmp_path / "theirs").exists()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(CapabilityWarning, match="no locks"):
        lock = Lock(tmp_path / "lock", "run").acquire()
    assert lock.held
    lock.release()

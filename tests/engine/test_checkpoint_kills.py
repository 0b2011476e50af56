"""A run that is killed anywhere is resumed to the same end; a file that is harmed is never read."""

from __future__ import annotations

import itertools
import random
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from children import killed_at
from engine.test_checkpoint import Counts, made, run
from small import assert_same, state_of

import mlopt
from mlopt import SettingsError
from mlopt._files import read_checked, write_file

FILES = (
    "_files/atomic.py",
    "_files/archive.py",
    "_engine/checkpoint.py",
    "_engine/checkpoint_files.py",
    "_engine/loop.py",
)


@pytest.mark.parametrize(
    ("first", "apart"), [(3, 23), *(pytest.param(i, 4, marks=pytest.mark.slow) for i in range(4))]
)
def test_killed_at_any_line_that_saves(tmp_path: Path, first: int, apart: int) -> None:
    whole = Counts()
    expected = state_of(run(tmp_path / "whole", whole, steps=4, every=2))
    for line in itertools.count(first, apart):
        folder = tmp_path / str(line)
        before = killed_at(line, FILES, lambda at=folder: run(at, Counts(), steps=4, every=2))
        again = Counts()
        found = state_of(run(folder, again, steps=4, every=2))
        if again.told["steps"] and found["steps"] == 4 and before:
            assert_same({k: v for k, v in expected.items() if "grads" not in k},
                        {k: v for k, v in found.items() if "grads" not in k})  # fmt: skip
            assert again.told == whole.told
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]
        if not before:
            break
    assert line > 10 * apart


def harmed(data: bytes, draw: random.Random) -> bytes:
    """A file with bits flipped, cut off, with blocks swapped, or grown."""
    at, kind = draw.randrange(len(data)), draw.randrange(4)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        size = 64
        a, b = (draw.randrange(len(data) // size) * size for _ in range(2))
        blocks = bytearray(data)
        blocks[a : a + size], blocks[b : b + size] = data[b : b + size], data[a : a + size]
        return bytes(blocks)
    return data + draw.randbytes(32)


@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 60), *(pytest.param(i, 120, marks=pytest.mark.slow) for i in range(1, 5))],
)
def test_no_harmed_file_is_read(tmp_path: Path, seed: int, count: int) -> None:
    run(tmp_path, Counts(), steps=4, every=4)
    (path,) = tmp_path.glob("*.ckpt")
    data, draw = path.read_bytes(), random.Random(seed)
    engine = made().engine()
    before = state_of(engine)
    for _ in range(count):
        other = harmed(data, draw)
        if other == data:
            continue
        path.write_bytes(other)
        with pytest.raises(SettingsError):
            engine.run(steps=9, resume=tmp_path, callbacks=[Counts()], progress=False)
    assert_same(before, state_of(engine))
    path.write_bytes(data)
    engine.run(steps=4, resume=tmp_path, callbacks=[Counts()], progress=False)
    assert engine.steps == 4


def test_a_file_that_claims_more_than_it_has_takes_no_memory(tmp_path: Path) -> None:
    """Its checksum is right: somebody has made it so."""
    run(tmp_path, Counts(), steps=4, every=4)
    (path,) = tmp_path.glob("*.ckpt")
    content = read_checked(path)
    assert content is not None
    raw = tmp_path / "raw.zip"
    raw.write_bytes(content)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            large = part.filename.endswith("data/0")
            new.writestr(part.filename, bytes(2**26) if large else old.read(part))
    write_file(path, packed.read_bytes(), checksum=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SettingsError, match=r"no checkpoint of an engine \(ValueError\)"):
            run(tmp_path, Counts())


def test_the_file_of_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Counts(), steps=4, every=4)
    w = mlopt.Variable(torch.nn.Parameter(torch.ones(2)), "w")
    sgd = torch.optim.SGD([w.tensor], lr=0.1)
    alone = mlopt.problem(over=w, optimizer=sgd)(lambda w: (w**2).sum())
    with pytest.raises(SettingsError, match="is of another run"):
        mlopt.Engine([alone]).run(steps=9, resume=tmp_path, progress=False)

"""Rows that are logged come back, whatever happened to the process."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from children import kill, running
from hypothesis import given, settings
from hypothesis import strategies as st

from mlopt._errors import DataError, SettingsError
from mlopt.loggers import JsonlLogger, from_json, read_jsonl, to_json


def test_rows_come_back_with_tensors_as_numbers_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    with JsonlLogger(path) as logger:
        logger.log({"step": 1, "loss": torch.tensor(0.5, requires_grad=True), "name": "a"})
        logger.log({"losses": torch.tensor([1.0, 2.0]), "n": np.float32(3), "path": Path("x")})
    assert read_jsonl(path) == [
        {"step": 1, "loss": 0.5, "name": "a"},
        {"losses": [1.0, 2.0], "n": 3.0, "path": "x"},
    ]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlLogger(path) as logger:
        logger.log({"a": math.nan, "b": [math.inf, -math.inf], "c": torch.tensor(math.nan)})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["a"] == "NaN"
    (row,) = read_jsonl(path)
    assert math.isnan(row["a"])
    assert math.isnan(row["c"])
    assert row["b"] == [math.inf, -math.inf]


def test_a_row_can_be_read_before_the_file_is_closed(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log({"step": 1})
    assert read_jsonl(logger.path) == [{"step": 1}]
    logger.close()


@pytest.mark.parametrize(
    ("cut", "kept"),
    [('{"step": 2, "lo', [1]), ('{"step": 2}', [1, 2]), ('{"step": 2, "name": "\xc3', [1])],
)
def test_a_cut_last_line_is_left_out_and_does_not_spoil_the_next(
    tmp_path: Path, cut: str, kept: list[int]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + cut.encode("latin-1"))
    assert [row["step"] for row in read_jsonl(path)] == kept
    with JsonlLogger(path) as logger:
        logger.log({"step": 9})
    assert [row["step"] for row in read_jsonl(path)] == [*kept, 9]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnot json\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        read_jsonl(path)


def test_errors_say_which_value_cannot_be_written(tmp_path: Path) -> None:
    with JsonlLogger(tmp_path / "metrics.jsonl") as logger:
        with pytest.raises(DataError, match=r"stage1.*type object"):
            logger.log({"stage1": object()})
        with pytest.raises(DataError, match=r"weights.*too large"):
            logger.log({"weights": torch.zeros(100, 100)})
    assert read_jsonl(logger.path) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing.jsonl"):
        read_jsonl(tmp_path / "nothing.jsonl")


# The names of the special numbers are read back as numbers, at any depth: `from_json` says so.
TEXTS = st.text().filter(lambda text: text not in ("NaN", "Infinity", "-Infinity"))


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_whatever_is_written_is_read_back(value: object) -> None:
    written = json.loads(json.dumps(to_json(value), allow_nan=False))
    assert from_json(written) == value


# Whole rows, of one writer.


@pytest.mark.parametrize(
    "content",
    [b"years of work", b"years\nof\nwork\n", b"{\\rtf1 text", b'{\n  "pretty": 1\n}', b"\xff\x00",
     b"[1]\n", b'"text"\n'],
)  # fmt: skip
def test_a_file_of_something_else_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thesis.tex"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"thesis\.tex: does not begin with a row"):
        JsonlLogger(path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("written", [0, 1, 17])
def test_a_row_that_the_disk_refuses_leaves_nothing_of_it(tmp_path: Path, written: int) -> None:
    """The disk takes some bytes of a row and then no more, and later has room again."""

    class Full(io.FileIO):
        room = 10**6

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = super().write(bytes(data)[: self.room])
            self.room -= taken
            return taken

    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger._file.close()
    logger._file = file = Full(logger.path, "ab")
    logger.log({"step": 1})
    file.room = written
    with pytest.raises(SettingsError, match=r"metrics\.jsonl: cannot be written \(No space left"):
        logger.log({"step": 2, "name": "long"})
    file.room = 10**6
    logger.log({"step": 3})
    logger.close()
    assert logger.path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_one_logger_at_a_time_has_a_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlLogger(path) as logger:
        logger.log({"step": 1})
        with pytest.raises(SettingsError, match="already writes to it"):
            JsonlLogger(path)
        assert read_jsonl(path) == [{"step": 1}]  # a reader needs no lock
    with pytest.raises(SettingsError, match="closed"):
        logger.log({"step": 2})
    with JsonlLogger(path) as logger:
        logger.log({"step": 2})
    assert [row["step"] for row in read_jsonl(path)] == [1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_has_one_logger_whatever_its_name(tmp_path: Path, link) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "elsewhere" / "same.jsonl"
    other.parent.mkdir()
    with JsonlLogger(path) as logger:
        link(path, other)
        with pytest.raises(SettingsError, match="same.jsonl: this process already writes to it"):
            JsonlLogger(other)
        logger.log({"a": 1})
    with JsonlLogger(other) as logger:
        with pytest.raises(SettingsError, match="this process already writes to it"):
            JsonlLogger(path)
        logger.log({"a": 2})
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    assert {item.name for item in tmp_path.rglob("*")} == {path.name, "elsewhere", other.name}


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_file_that_was_removed_takes_no_rows(tmp_path: Path) -> None:
    with JsonlLogger(tmp_path / "metrics.jsonl") as logger:
        logger.path.unlink()
        with pytest.raises(SettingsError, match=r"metrics\.jsonl: was removed"):
            logger.log({"step": 1})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_run_leaves_whole_rows_and_blocks_nobody(tmp_path: Path, kills: int) -> None:
    path, draw = tmp_path / "metrics.jsonl", random.Random(3)

    def work(ready) -> None:
        with JsonlLogger(path) as logger:
            ready()
            for k in range(10**9):
                logger.log({"k": k, "text": "x" * 5000})

    for _ in range(kills):
        with running(work) as child:
            for _ in range(draw.randrange(1, 6)):
                assert all(len(row["text"]) == 5000 for row in read_jsonl(path))
            kill(child)
        with JsonlLogger(path) as logger:
            logger.log({"k": -1, "text": "x" * 5000})
        rows = read_jsonl(path)
        assert rows[-1]["k"] == -1
        path.unlink()


@settings(max_examples=60)
@given(st.binary(max_size=60), st.integers(0, 60))
def test_rows_cut_anywhere_and_changed_anywhere_are_read_or_named(noise: bytes, at: int) -> None:
    whole = b'{"a": 1}\n{"a": [2, "NaN"]}\n{"a": {"b": 3}}\n'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(whole[:at])
        complete = whole[:at].count(b"\n")
        rows = read_jsonl(path)
        assert len(rows) - complete in (0, 1)
        path.write_bytes(whole[:at] + noise + whole[at:])
        left_out: list[str] = []
        rows = read_jsonl(path, left_out)
        assert all(isinstance(row, dict) for row in rows)
        if left_out:
            with pytest.raises(DataError, match="line"):
                read_jsonl(path)
        else:
            assert len(read_jsonl(path)) == len(rows)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1: "a", "1": "b"}, "the same as text"),
        (10**5000, "whole number"),
        (-(10**5000), "whole number"),
    ],
    ids=["names", "large", "small"],
)
def test_what_would_not_come_back_is_refused(value: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        to_json({"a": value})


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype", "ignore:.*quantize")
def test_tensors_of_other_layouts_are_read_or_refused(tmp_path: Path) -> None:
    ones = torch.ones(2)
    assert to_json(torch.eye(2).to_sparse()) == [[1.0, 0.0], [0.0, 1.0]]
    assert to_json(torch.tensor(2.0).to_sparse()) == 2.0
    refused = {
        "meta": ones.to("meta"),
        "nested": torch.nested.nested_tensor([ones, ones[:1]]),
        "quantized": torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
        "too large": torch.eye(100).to_sparse(),
    }
    with JsonlLogger(tmp_path / "metrics.jsonl") as logger:
        for said, tensor in refused.items():
            with pytest.raises(DataError, match=f"metrics.jsonl: a: .*{said}"):
                logger.log({"a": tensor})
    assert read_jsonl(logger.path) == []


def test_what_contains_itself_is_refused_and_what_nests_too_deeply_is_left_out(
    tmp_path: Path,
) -> None:
    own: list[object] = []
    own.append(own)
    with pytest.raises(DataError, match="nested too deeply"):
        to_json({"a": own})
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n' + "[" * 100_000 + '\n{"a": 2}\n')
    left_out: list[str] = []
    assert read_jsonl(path, left_out) == [{"a": 1}, {"a": 2}]
    assert len(left_out) == 1
    assert left_out[0].startswith("metrics.jsonl, line 2: not a JSON object")


@pytest.mark.parametrize("path", ["", ".", "a\0b.jsonl", "/"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match="names no file"):
        JsonlLogger(path)

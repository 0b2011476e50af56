"""Rows that are logged come back, whatever happened to the process."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlopt._errors import DataError
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

"""Checkpoints of sharded variables: written by all ranks, read with any number of them."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from distributed import sharded_runs

from mlopt._engine import checkpoint_files

pytestmark = pytest.mark.usefixtures("shards")


def test_a_sharded_run_goes_on_with_other_ranks_and_with_none(two, three, tmp_path):
    folder = str(tmp_path / "run")
    expected = two("distributed.sharded_runs:saved", folder)[0]
    names = sorted(p.name for p in Path(folder).iterdir() if not p.name.startswith("."))
    assert names == [
        f"step_{n:010d}.{end}" for n in (1, 2) for end in ("ckpt", "shards")
    ]  # and nothing half done
    for ranks, sharded in ((three, True), (two, False)):
        ranks("distributed.sharded_runs:resumed", folder, sharded, expected)
    engine = sharded_runs.engine_of(False, own=lambda batch: batch)
    sharded_runs.quietly(engine, 2, resume=folder)
    assert engine.steps == 2


def test_a_plain_run_goes_on_sharded(two, tmp_path):
    folder = str(tmp_path / "run")
    expected = two("distributed.sharded_runs:saved_plain", folder)[0]
    two("distributed.sharded_runs:resumed", folder, True, expected)


@pytest.mark.parametrize("sharded", [True, False])
def test_a_state_goes_to_another_engine(sharded, two):
    two("distributed.sharded_runs:taken_over", sharded)


@pytest.mark.parametrize("harm", ["empty", "a bit"])
def test_a_checkpoint_without_its_shards_is_damaged(harm, two, tmp_path):
    folder = tmp_path / "run"
    two("distributed.sharded_runs:saved", str(folder))
    file = sorted((folder / "step_0000000002.shards").glob("*.distcp"))[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(b"" if harm == "empty" else data)
    engine = sharded_runs.engine_of(False, own=lambda batch: batch)
    with pytest.warns(UserWarning, match="is not as it was written"):
        engine.run(steps=1, progress=False, resume=folder)
    assert engine.steps == 1


@pytest.mark.parametrize(
    ("what", "why"), [("first", "OSError: no room"), ("torch", "FileExistsError: ")]
)
def test_shards_that_cannot_be_written_are_so_on_all_ranks(what, why, two, tmp_path):
    for error in two("distributed.sharded_runs:unwritable", str(tmp_path / "run"), what):
        assert error.startswith("SettingsError: ")
        assert f"cannot be written ({why}" in error


def test_a_run_goes_on_from_the_shards_before_those_that_cannot_be_read(two, tmp_path):
    folder = tmp_path / "run"
    two("distributed.sharded_runs:saved", str(folder))
    for file in (folder / "step_0000000002.shards").glob("*.distcp"):
        file.write_bytes(bytes(file.stat().st_size))  # as many as before
    engine = sharded_runs.engine_of(False, own=lambda batch: batch)
    with (
        patch.object(checkpoint_files, "check_shards"),
        pytest.warns(UserWarning, match="cannot be read"),
    ):
        engine.run(steps=1, progress=False, resume=folder)
    assert engine.steps == 1
    assert two("distributed.sharded_runs:seen_by_one", str(folder), "unchecked") == [("", 1)] * 2


def test_a_rank_that_fails_does_not_save_by_itself(two, tmp_path):
    first, other = two("distributed.sharded_runs:ended", str(tmp_path / "run"))
    assert first == "ValueError: the callback has failed"
    assert other == f"RankError: rank 0 of 2 has failed: {first}"


def test_a_step_that_is_saved_again_keeps_its_shards_until_the_file_names_others(two, tmp_path):
    first, *others = (f"step_0000000002{end}.shards" for end in ("", ".2", ".3", ".4"))
    found = two("distributed.sharded_runs:saved_again", str(tmp_path / "run"))[0]
    assert [sorted(names.split()) for names in found] == [
        sorted([first, *others[:1]]), sorted([first, *others[:2]]), others[2:]
    ]  # fmt: skip


def test_shards_that_no_file_names_are_removed_when_a_run_begins(tmp_path):
    for name in ("step_0000000004.shards", ".step_0000000004.2.shards.part", "mine.shards"):
        (tmp_path / name).mkdir()
    checkpoint_files.remove_rests(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.shards"]


def test_what_one_rank_cannot_read_no_rank_goes_on_from(two, tmp_path):
    folder = str(tmp_path / "run")
    two("distributed.sharded_runs:saved", folder)
    assert two("distributed.sharded_runs:seen_by_one", folder, "no shards") == [("", 1)] * 2
    for (error,) in two("distributed.sharded_runs:seen_by_one", folder, "no file"):
        assert "rank 0 sees other checkpoints in it (step_0000000002.ckpt, step" in error
        assert "than rank 1 (none)" in error

"""Searches on two ranks, which torchrun starts: the search of one process that takes two parts.

Compared are, to the bit, all that the checkpoints hold, the retrained networks, the genotypes, the
results and the log; but for times, and for what parts and ranks cost.
"""

from __future__ import annotations

import importlib
import random
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from examples.as_a_rank import by_themselves, in_float64, torchrun
from examples.pipeline.test_ends import without_seeds
from examples.pipeline.test_resume import outcome
from examples.small_runs import SMALL
from small import assert_same

from mlopt.report import RunFolder
from support import pipeline, settings
from support.ranks import Onlooker

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)

LINE = [*SMALL, "--epochs", "3", "--batch-size", "8", "--checkpoint-every", "1"]
ALONE = ["--no-beside-plain", "--retrain", "best"]
STAGES = ["--space", "p-darts", "--add-cells", "0", "1", "--drop", "4", "3", "--skip-dropout",
          "0.1", "0.4"]  # fmt: skip
#: What is another number where a batch is taken in parts.
COSTS = {"passes", "between_passes", "left_passes", "evaluations", "search_ranks"}
#: What a rank has its own rows of, and what the trial of its plan has drawn ahead.
OWN = {"signals", "waiting"}


def one_process(
    name: str, folder: Path, *more: str, resume: bool = False, line: Sequence[str] = LINE
) -> None:
    """The same on one process, in two parts."""
    line = [*line, "--run-folder", str(folder), "--parts", "2", *more]
    s = settings.parse(None, line, example=name)
    run = pipeline.run_beside_base if s.beside_plain else pipeline.run
    with in_float64():
        run(name, importlib.import_module(name).scheme, s, resume=resume)


def found_in(folder: Path) -> Any:
    """What a search has left, but for what its steps were planned to cost, and who took them."""
    found = outcome(folder)
    for name in (name for name in found if name.endswith("result.json")):
        found[name]["notes"] = [n for n in found[name]["notes"] if not n.startswith("2 processes")]
    found["rows"] = [row for row in found["rows"] if row["phase"] != "plan"]
    return without(without_seeds(found), COSTS | OWN | {"fingerprint", "planned"})


def without(held: Any, names: set[str]) -> Any:
    if isinstance(held, dict):
        return {k: without(v, names) for k, v in held.items() if k not in names}
    return [without(part, names) for part in held] if isinstance(held, list) else held


def said_by(done: subprocess.CompletedProcess[str], text: str) -> int:
    """How often a program has said something."""
    return (done.stdout + done.stderr).count(text)


def statuses(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The exit statuses of the ranks, as torchrun reports those that failed."""
    return set(re.findall(r"exitcode\s*: (-?\d+)", done.stderr))


def test_sgl_and_the_plain_search_to_the_bit(tmp_path: Path) -> None:
    """Each is retrained by the first rank, while the other waits or has ended."""
    line = [*LINE, "--run-folder", str(tmp_path / "ranks"), "--beside-plain"]
    done = torchrun("sgl_darts", line)
    assert done.returncode == 0, done.stderr
    assert said_by(done, "report: ") == 2
    assert said_by(done, "logistic regression") == 1
    one_process("sgl_darts", tmp_path / "one", "--beside-plain")
    assert_same(found_in(tmp_path / "ranks"), found_in(tmp_path / "one"))
    there, here = (
        {path.relative_to(folder) for path in folder.rglob("*")}
        for folder in (tmp_path / "ranks", tmp_path / "one")
    )
    assert there == here  # the second rank has written nothing


def test_sigterm_to_one_rank_saves_and_one_process_goes_on(tmp_path: Path) -> None:
    """LFM-CW: the other rank ends with it, and the run that goes on is the run."""
    line = [*LINE, "--run-folder", str(tmp_path / "ranks")]
    done = torchrun("lfm_cw_darts", line, f"1 3 {int(signal.SIGTERM)}")
    assert statuses(done) == {"143"}, done.stderr
    assert said_by(done, "Interrupted. This continues the run:\ntorchrun --nproc-per-node 2 ") == 1
    assert said_by(done, "--resume\n") == 1
    assert RunFolder.open(tmp_path / "ranks").state == "interrupted"
    saved = max((tmp_path / "ranks").glob("checkpoints/*.ckpt"))
    assert saved.name == "step_0000000004.ckpt"

    one_process("lfm_cw_darts", tmp_path / "ranks", resume=True)
    one_process("lfm_cw_darts", tmp_path / "one")
    expected, found = found_in(tmp_path / "one"), found_in(tmp_path / "ranks")
    assert_same(found, expected)


@pytest.mark.parametrize(
    "case",
    ["a folder", *(pytest.param(c, marks=pytest.mark.slow) for c in ("a setting", "a device"))],
)
def test_an_error_before_the_run_is_said_once(tmp_path: Path, case: str) -> None:
    """As a user starts the program."""
    line, message = ["--epochs", "0"], "error: the command line: epochs = 0 is too small.\n"
    if case == "a folder":
        RunFolder.create(tmp_path / "run", {}).close()
        line, message = [*LINE], f"error: run folder {tmp_path / 'run'}: already exists. "
    elif case == "a device":  # which all ranks find
        line, message = [*LINE, "--device", "nope"], "error: device = 'nope' cannot be used here"
    before = sorted(tmp_path.rglob("*"))
    done = torchrun("darts", [*line, "--run-folder", str(tmp_path / "run")], plain=True)
    assert done.returncode == 1
    assert statuses(done) == {"1"}
    assert said_by(done, message) == said_by(done, "error: ") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_program_that_is_one_process_refuses_to_be_several(tmp_path: Path) -> None:
    done = torchrun("evaluate", ["--genotype", "DARTS_V2"], plain=True)
    assert said_by(done, "error: 2 processes of this program have been started") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "then"),
    [
        ("lfm_cw_darts", ["--ema", "0.9", "--d-steps", "2"], 1),
        ("lfm_cw_darts", ["--discriminator", "own", "--images-per-class", "1"], 2),
        ("lfm_cw_darts", [*STAGES, "--order", "first", "--generator-epochs", "0"], 1),
        ("sgl_darts", [*ALONE, "--learners", "3", "--product", "central"], 2),
        ("sgl_darts", [*ALONE, *STAGES, "--order", "first"], 1),
        ("darts", ["--space", "pc-darts", "--channels", "4", "--steps", "upper-first"], 2),
        ("darts", ["--space", "darts-minus", "--stop-on-collapse"], 1),
    ],
)  # fmt: skip
def test_killed_at_a_random_step(tmp_path: Path, name: str, more: list[str], then: int) -> None:
    """All ranks at once, by SIGKILL; so many go on."""
    seed = random.SystemRandom().randrange(2**32)
    step = random.Random(seed).randrange(1, 3)
    print(f"seed {seed}: killed at step {step}")
    line = [*LINE, "--run-folder", str(tmp_path / "ranks"), *more]
    done = torchrun(name, line, f"all {step} {int(signal.SIGKILL)}")
    assert statuses(done) & {"-9"}, done.stderr
    saved = max((tmp_path / "ranks").glob("checkpoints*/*.ckpt"))
    assert saved.name == f"step_{step:010d}.ckpt"
    if then == 1:
        one_process(name, tmp_path / "ranks", *more, resume=True)
    else:
        done = torchrun(name, [*line, "--resume"])
        assert done.returncode == 0, done.stderr
    one_process(name, tmp_path / "one", *more)
    assert_same(found_in(tmp_path / "ranks"), found_in(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lfm_cw_darts", "sgl_darts"])
def test_the_quick_preset(tmp_path: Path, name: str) -> None:
    """A whole search on the digits; and one that is killed, of which one process takes the rest."""
    line = ["--preset", "quick", *ALONE, "--eval-epochs", "1"]
    one_process(name, tmp_path / "one", line=line)
    expected = found_in(tmp_path / "one")
    steps = max(row["step"] for row in expected["rows"] if row["phase"] == "search")
    seed = random.SystemRandom().randrange(2**32)
    step = random.Random(seed).randrange(1, steps)
    print(f"seed {seed}: killed at step {step} of {steps}")
    for folder, end_at in (("ranks", ""), ("killed", f"all {step} {int(signal.SIGKILL)}")):
        done = torchrun(name, [*line, "--run-folder", str(tmp_path / folder)], end_at, timeout=3600)
        assert bool(end_at) == (done.returncode != 0), done.stderr
    one_process(name, tmp_path / "killed", resume=True, line=line)
    for folder in ("ranks", "killed"):
        assert_same(found_in(tmp_path / folder), expected)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_other(tmp_path: Path, rank: int) -> None:
    """It says which one is gone; or torchrun does, which ends it, and it says how to go on."""
    alone = by_themselves("darts", [*LINE, "--run-folder", str(tmp_path / "run")], f"{rank} 2 9")
    killed, left = alone[rank], alone[1 - rank]
    assert killed.returncode == -signal.SIGKILL
    assert left.returncode == 1
    assert said_by(left, f"error: rank {rank} of 2 is gone") == said_by(left, "error: ") == 1

    line = [*LINE, "--run-folder", str(tmp_path / "run"), "--resume"]
    done = torchrun("darts", line, f"{rank} 3 9")
    assert "-9" in statuses(done)
    assert said_by(done, "Interrupted. This continues the run") == (rank == 1)
    assert not said_by(done, "error: ")
    done = torchrun("darts", line)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_a_run_is_said_once(tmp_path: Path, rank: int) -> None:
    """What one rank fails by, the first says; and all end with its status."""
    line = [*LINE, "--run-folder", str(tmp_path / "run")]
    for start in (torchrun, by_themselves):
        found = start("darts", [*line, "--overwrite"], f"{rank} 2 error")
        done = found if isinstance(found, list) else [found]
        assert {d.returncode for d in done} == {1}
        first = "" if rank == 0 else "rank 1 of 2 has failed: DataError: "
        assert sum(said_by(d, f"error: {first}on purpose\n") for d in done) == 1
        assert sum(said_by(d, "error: ") for d in done) == 1
    assert RunFolder.open(tmp_path / "run").state == "interrupted"


def test_an_onlooker_writes_nothing(tmp_path: Path) -> None:
    """All that a run folder has to write with: of a run that is there, and of none."""
    with RunFolder.create(tmp_path / "run", {"a": 1}) as folder:
        folder.log("search", step=1, loss=0.5)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for root in (tmp_path / "run", tmp_path / "none"):
            with Onlooker(root) as onlooker:
                onlooker.log("search", step=2, loss=0.25)
                onlooker.go_on()
                onlooker.cut(onlooker.logged)
                onlooker.save("notes.md", "text")
                onlooker.save_json("result.json", {})
                with pytest.raises(RuntimeError, match="another rank than the first"):
                    onlooker.path("samples/one.png")
        with pytest.raises(RuntimeError, match="another rank than the first"):
            Onlooker.create(tmp_path / "none", {})
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after
    assert not (tmp_path / "none").exists()
    public = {name for name in vars(RunFolder) if not name.startswith("_")}
    reads = {"open", "state", "metrics", "read_json"}
    assert public - reads <= set(vars(Onlooker))  # a new way to write is one more to refuse

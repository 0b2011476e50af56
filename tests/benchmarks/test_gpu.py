"""`make gpu`, without a GPU: what it would run runs on the CPU, and no part stops another."""

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from no_values import values_asked_for

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import device_tests  # noqa: E402
import gpu  # noqa: E402
import host_synchronisations  # noqa: E402
from gpu_parts import BENCHMARKS, Outcome, Part, run_part, run_parts, summary  # noqa: E402
from host_synchronisation_cases import CASES, Case  # noqa: E402

# The parts.


def test_each_part_has_a_name_a_file_and_a_program():
    assert len({part.name for part in gpu.PARTS}) == len(gpu.PARTS)
    assert len({part.file for part in gpu.PARTS}) == len(gpu.PARTS)
    assert "summary.md" not in {part.file for part in gpu.PARTS}
    for part in gpu.PARTS:
        assert part.shows
        assert (BENCHMARKS / part.program).exists()


def test_all_parts_have_their_limit_in_ten_minutes():
    timed = sum(part.limit for part in gpu.PARTS if part.timed)
    assert timed + max(p.limit for p in gpu.PARTS if not p.timed) <= gpu.BUDGET < 600


def test_the_list(capsys):
    assert gpu.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(part.name in said and part.file in said for part in gpu.PARTS)


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--only", "quantum"])
    assert "quantum" in capsys.readouterr().err


def test_without_a_gpu_nothing_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "no CUDA device here; nothing was run\n"
    assert not (tmp_path / "out").exists()


def test_results_of_a_cpu_are_no_results_of_a_gpu():
    assert gpu.parse([]).out == Path("benchmarks/results/gpu")
    assert gpu.parse(["--device", "cpu"]).out == Path("runs/gpu-on-the-cpu")


@pytest.mark.slow
@pytest.mark.parametrize("part", gpu.PARTS, ids=lambda part: part.name)
def test_each_part_runs_at_its_smallest(part, tmp_path):
    outcome = run_part(part, "cpu", tmp_path, 900)
    text = (tmp_path / part.file).read_text(encoding="utf-8")
    assert outcome.status == "passed", text
    assert f"`python benchmarks/{part.program} " in text
    assert torch.__version__ in text


# The runner, on programs that need no torch.

WRITES = (
    "import sys; path = sys.argv[sys.argv.index('--output') + 1]\nopen(path, 'w').write('found')"
)
HANGS = """
import itertools, pathlib, subprocess, sys, threading, time

if "child" in sys.argv:
    for i in itertools.count():
        pathlib.Path(__file__ + ".alive").write_text(str(i))
        time.sleep(0.01)
subprocess.Popen([sys.executable, __file__, "child"])
print("waiting for what never comes", flush=True)
threading.Event().wait()
"""
ENDS = {  # name: program, how it ends
    "first": (WRITES, "passed"),
    "wrong": (f"{WRITES}\nprint('values differ'); sys.exit(3)", "failed: status 3"),
    "raises": ("raise ValueError('no such thing')", "failed: status 1"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "failed: SIGKILL"),
    "hangs": (HANGS, "out of time (3 s)"),
    "silent": ("", "failed: it wrote no file"),
    "last": (WRITES, "passed"),
}


@pytest.fixture
def parts(tmp_path):
    """A part for each end, of programs of their own."""
    made = {}
    for name, (source, _) in ENDS.items():
        program = tmp_path / f"{name}.py"
        program.write_text(source, encoding="utf-8")
        made[name] = Part(name, f"a program that is {name}", str(program), limit=60)
    return made


def test_no_part_stops_another(parts, tmp_path, capsys):
    parts["hangs"] = Part("hangs", "for ever", parts["hangs"].program, limit=0.3)  # 3 s on a CPU
    out = tmp_path / "out"
    out.mkdir()
    for earlier in ("silent.md", "silent.svg"):
        (out / earlier).write_text("of an earlier run", encoding="utf-8")
    outcomes = run_parts(parts.values(), "cpu", out, 600)
    assert {o.part.name: o.status for o in outcomes} == {n: e for n, (_, e) in ENDS.items()}
    said = {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}
    assert set(said) == {part.file for part in parts.values()}
    assert said["first.md"] == said["last.md"] == said["wrong.md"] == "found"
    assert "no such thing" in said["raises.md"]
    assert "waiting for what never comes" in said["hangs.md"]
    assert "an earlier run" not in said["silent.md"]
    assert "values differ" in capsys.readouterr().out
    text = summary(outcomes, "cpu", 600)
    assert "2 of 7 parts passed" in text
    assert all(name in text and status in text for name, (_, status) in ENDS.items())


def test_timed_parts_run_alone_and_the_others_side_by_side(tmp_path, monkeypatch):
    both, running, seen = threading.Barrier(2, timeout=60), set[str](), {}

    def run_part(part, *rest):
        running.add(part.name)
        if not part.timed:
            both.wait()  # for ever, if they came one after the other
        seen[part.name] = set(running)
        if not part.timed:
            both.wait()
        running.discard(part.name)
        return Outcome(part, "passed")

    monkeypatch.setattr("gpu_parts.run_part", run_part)
    parts = [Part(name, name, "x.py", timed=name in "bd") for name in "abcd"]
    outcomes = run_parts(parts, "cpu", tmp_path, 600)
    assert [o.part.name for o in outcomes] == list("abcd")
    assert seen == {"a": {"a", "c"}, "c": {"a", "c"}, "b": {"b"}, "d": {"d"}}


def test_nothing_that_a_part_has_started_outlives_it(parts, tmp_path):
    alive = Path(f"{parts['hangs'].program}.alive")
    run_part(parts["hangs"], "cpu", tmp_path, 3)
    before = alive.read_text(encoding="utf-8")
    time.sleep(0.1)
    assert alive.read_text(encoding="utf-8") == before


def test_no_part_is_started_when_the_time_is_spent(parts, tmp_path, monkeypatch):
    clock = itertools.count(step=10)  # it is read once at first, and before and after each part
    monkeypatch.setattr("gpu_parts.monotonic", lambda: float(next(clock)))
    chosen = [parts[name] for name in ("first", "last", "silent")]
    outcomes = run_parts(chosen, "cpu", tmp_path, budget=25.0)
    assert [o.status for o in outcomes] == ["passed", "left out", "left out"]
    assert "25 s of the whole were spent before: last, silent." in summary(outcomes, "cpu", 25.0)
    assert not (tmp_path / "last.md").exists()


@pytest.mark.parametrize(
    ("names", "status"), [(["first", "last"], 0), (["first", "wrong", "last"], 1)]
)
def test_the_status_is_that_of_the_parts(names, status, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "PARTS", tuple(parts[name] for name in names))
    out = tmp_path / "out"
    assert gpu.main(["--device", "cpu", "--out", str(out)]) == status
    written = (out / "summary.md").read_text(encoding="utf-8")
    assert written in capsys.readouterr().out
    assert gpu.main(["--device", "cpu", "--out", str(out), "--only", "first"]) == 0
    assert gpu.main(["--device", "cpu", "--out", str(out), "--budget", "0"]) == 1


def test_the_limit_is_told_to_who_asks(tmp_path):
    part = Part("x", "x", "x.py", arguments="--limit {limit}", smallest="--pairs 2")
    assert "--limit 50" in " ".join(part.command("cuda", tmp_path, 60))
    assert "--limit" not in part.command("cpu", tmp_path, 60)


# Host synchronisations.


def test_two_levels_wait_once_a_step(tmp_path):
    path = tmp_path / "x.md"
    arguments = ["--cases", "two levels, central", "engine.run", "--output", str(path)]
    assert host_synchronisations.main(arguments) == 0
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if "| yes " in line]
    assert len(rows) == 2


def slow_if(name):
    """Without a kernel written for it, an operation on "meta" is a long way through Python."""
    marks = [pytest.mark.slow] if name.startswith(("LFM-CW", "SGL")) else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [slow_if(name) for name in CASES])
def test_away_from_the_host_a_step_asks_once(name, monkeypatch):
    """As on a GPU: nothing is mixed with tensors of the CPU, and no label is looked at."""
    asked = values_asked_for(monkeypatch)
    advance = CASES[name].make("meta")
    advance(2)
    asked.clear()
    advance(1)
    assert asked[:1] == ["tolist"]
    assert len(asked) == 1 or CASES[name].law is None


def test_a_step_that_reads_more_breaks_the_law(monkeypatch, capsys):
    """A number by torch, and a list by Python alone; not what an optimizer reads of its own.

    A read right after another finds everything done.
    """
    weight = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([weight])

    def advance(count):
        for _ in range(count):
            weight.grad = torch.ones(3)
            adam.step()
            weight.sum().item()
            (weight + 1).tolist()
            weight.tolist()

    cases = {"greedy": Case(lambda device: advance)}
    monkeypatch.setattr(host_synchronisations, "CASES", cases)
    assert host_synchronisations.main(["--cases", "greedy"]) == 1
    said = capsys.readouterr().out
    assert "| greedy | 2 " in said
    assert re.search(r"greedy: 2 from .*test_gpu\.py\(\d+\): advance", said)


# The tests on the device.


def record(folder, selected, *lines):
    path = folder / "record.jsonl"
    keys = ("test", "outcome", "seconds", "why")
    text = "".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    Path(f"{path}.selected").write_text(str(selected), encoding="utf-8")
    return path


def test_a_test_has_failed_if_one_of_its_phases_has(tmp_path):
    path = record(
        tmp_path, 4,
        ("a", "passed", 1.0, ""), ("a", "failed", 0.1, "left a file"),
        ("b", "passed", 2.0, ""), ("c", "skipped", 0.0, "no peer"),
    )  # fmt: skip
    found, selected = device_tests.read(path)
    assert {line["test"]: line["outcome"] for line in found} == {
        "a": "failed", "b": "passed", "c": "skipped",
    }  # fmt: skip
    options = device_tests.parse(["--limit", "5"])
    text = device_tests.report(found, selected, False, options)
    assert "Of 4 tests" in text
    assert "1 passed, 1 failed, 1 skipped, 1 did not run" in text
    assert "left a file" in text
    assert "ended after 5 s" in text


def test_a_record_that_was_never_begun_has_no_tests(tmp_path):
    assert device_tests.read(tmp_path / "record.jsonl") == ([], 0)
    text = device_tests.report([], 0, False, device_tests.parse([]))
    assert "Of 0 tests" in text
    assert "|" not in text

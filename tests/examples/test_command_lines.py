"""Command lines that make no sense: one sentence, and no work."""

from __future__ import annotations

import math
import runpy
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest

import bounded
import demo
import evaluate
import experiments
import generator
from mlopt import SettingsError

EXAMPLES = Path(__file__).parents[2] / "examples"

GALLERY = {
    "duopoly": ["--steps -1", "--steps 0", "--steps 1.5", "--steps x"],
    "hyper_cleaning": [
        "--corrupted -1", "--corrupted nan", "--corrupted 0", "--corrupted 1", "--valid -1",
        "--valid 0", "--valid 100000", "--steps 0", "--seed -1",
    ],
    "imaml": ["--inner-lr -1", "--inner-lr inf", "--lambda nan", "--tasks 0", "--rounds 0"],
    "interleaving": ["--seeds 0", "--seeds -1", "--steps -1", "--rounds 0", "--pull nan"],
    "logistic_hpo": ["--steps -1", "--seed 99999999999999999999"],
    "maml": ["--inner-lr -1", "--steps -1", "--tasks 0", "--inner-steps 0"],
    "reweighting": ["--noise nan", "--noise 1.5", "--seeds 0", "--seeds -1", "--epochs 0"],
    "three_levels": ["--size -1", "--size 0", "--seed nope"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, lines in GALLERY.items() for line in lines]
)
def test_argparse_refuses_it(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *line.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "gallery" / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr()
    option, value = line.split()
    assert f"{name}.py: error: argument {option}: {value} is no" in said.err
    assert not said.out


def test_an_example_without_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hpo_ridge.py", "--nope"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "hpo_ridge.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "unrecognized arguments: --nope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (bounded.count, ["1", "20"], ["0", "-1", "1.0", "nan", ""]),
        (bounded.seed, ["0", str(2**53)], ["-1", str(2**63)]),
        (bounded.share, ["0", "1", "0.5"], ["-0.1", "1.1", "nan", "half"]),
        (bounded.amount, ["0", "1e-3"], ["-1", "inf", "1e300", "nan"]),
        (bounded.whole(1, 3), ["1", "3"], ["0", "4"]),
        (bounded.real(0, math.inf), ["0", "1e300"], ["inf", "-inf"]),
    ],
)
def test_numbers_within_bounds(
    kind: Callable[[str], float], right: list[str], wrong: list[str]
) -> None:
    assert [kind(text) for text in right] == [float(text) for text in right]
    for text in wrong:
        with pytest.raises(ArgumentTypeError, match="is no (whole )?number from"):
            kind(text)


LONG = "x" * 300
LINES: dict[str, tuple[Callable[[list[str]], object], list[str], str]] = {
    "evaluate": (evaluate.main, ["--genotype", LONG], "load_genotype"),
    "evaluate on no device": (
        evaluate.main, ["--genotype", "DARTS_V2", "--device", "nope"], "device = 'nope'"),
    "evaluate in no folder": (
        evaluate.main, ["--genotype", "DARTS_V2", "--resume", "--run-folder", LONG],
        "File name too long"),
    "experiments": (
        experiments.main, ["--table", "matrix", "--dry-run", "--folder", LONG], "too long"),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_a_program_ends_with_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, line, message = LINES[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(line)
    said = str(ended.value)
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--device", "nope"], "device = 'nope'"),
        (["--run-folder", LONG], "too long"),
        (["--seed", "99999999999999999999"], "--seed must be"),
        (["--train-images", "-1"], "--train-images must be at least 0"),
        (["--samples", "0"], "--samples must be at least 1"),
    ],
)
def test_the_generator(line: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        generator.run(generator.parse(["--dataset", "digits", *line]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--device", "nope"], "error: device = 'nope'"),
        (["--seeds", "-1"], "seed = -1 is too small"),
        (["--preset", LONG], "there is no such preset"),
    ],
)
def test_the_demo(
    line: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.py", *line])
    with pytest.raises(SystemExit, match=message):
        demo.main()
    assert not list(tmp_path.iterdir())


def test_the_demo_looks_for_the_place_of_its_table_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py", "--table", f"{LONG}/table.md"])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert "there is no folder xxx" in capsys.readouterr().err

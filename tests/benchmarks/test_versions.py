"""The comparison of two checkouts: every case takes a step, and intervals are right."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import versions  # noqa: E402
from versions_worker import cases  # noqa: E402


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # of a solver with few steps
@pytest.mark.parametrize("name", ["ladder of 1, central", "overhead, exact", "nested, implicit"])
def test_a_case_takes_a_step(name):
    assert cases()[name]().step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # of a solver with few steps
@pytest.mark.parametrize("name", [n for n in cases() if not n.startswith("large")])
def test_every_case_takes_a_step(name):
    assert cases()[name]().step()


@pytest.mark.parametrize(("count", "least", "greatest"), [(6, 0, 5), (9, 1, 7), (25, 7, 17)])
def test_the_interval_is_that_of_the_sign_test(count, least, greatest):
    """P(fewer than k of n fall below the median) <= 2.5 %, by the table of the sign test."""
    values = random.Random(0).sample(range(count), count)
    assert versions.interval([float(v) for v in values]) == (least, greatest)


@pytest.mark.slow
def test_against_itself(tmp_path, monkeypatch):
    if subprocess.run(["git", "-C", versions.ROOT, "rev-parse"], check=False).returncode:
        pytest.skip("not a git checkout")
    path = tmp_path / "x.md"
    arguments = ["--before", "HEAD", "--cases", "overhead, exact", "--starts", "1", "--pairs", "2"]
    monkeypatch.setattr(sys, "argv", [versions.__file__, *arguments, "--output", str(path)])
    versions.main()
    (row,) = (line for line in path.read_text().splitlines() if line.startswith("| overhead"))
    assert "| 2 / 2 " in row

"""This checkout against another commit: the same steps, counted and timed in alternated pairs.

Each case runs in two processes, one for each mlopt, which take turns; a ratio of CPU seconds below
1 is in favour of this checkout. The programs of the cases are this checkout's in both. Processes
differ by some per cent with where their memory lies, however long they run: so each case is started
anew several times, and what counts is the median ratio of each start.

    python benchmarks/versions.py --before v0.1.0
    python benchmarks/versions.py --before ../another/checkout --cases large
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from header import header

from mlopt.report import format_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: CPU seconds of one turn, at least.
TURN = 0.15


class Contestant:
    """A case on one mlopt, in a process that waits for its turns."""

    def __init__(self, case: str, checkout: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "versions_worker.py"), case],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.counts = json.loads(self.ask(""))
        if not Path(self.counts["file"]).is_relative_to(checkout):
            raise RuntimeError(f"asked for {checkout}, and imported {self.counts['file']}")

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{shown(self.process.args)} ended with {self.process.wait()}")
        return answer

    def seconds(self, steps: int) -> float:
        return float(self.ask(str(steps)))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def shown(arguments: Any) -> str:
    return " ".join(map(str, arguments))


def interval(values: list[float]) -> tuple[float, float]:
    """Of the median, with 95 % confidence or more, by order statistics: no distribution assumed."""
    ordered, n = sorted(values), len(values)
    tail, k = 0.0, 0
    while k < n // 2:
        tail += math.comb(n, k) / 2**n
        if tail > 0.025:
            break
        k += 1
    k = max(k - 1, 0)
    return ordered[k], ordered[n - 1 - k]


def measure(case: str, before: Path, starts: int, pairs: int) -> dict[str, Any]:
    """One row: counts and memory of both, and the ratio of their times."""
    found = [measure_once(case, before, pairs) for _ in range(starts)]
    now, then, _, _ = found[0]
    ratios = [ratio for _, _, ratio, _ in found]
    low, high = interval(ratios)
    row: dict[str, Any] = {"case": case}
    for what in ("evaluations", "backwards"):
        row[what] = f"{now[what]} / {then[what]}"
    row["peak, MiB"] = " / ".join(f"{c['peak'] / 2**20:.0f}" for c in (now, then))
    row["ms"] = f"{statistics.median(ms for *_, ms in found):.2f}"
    row["time"] = f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
    return row


def measure_once(
    case: str, before: Path, pairs: int
) -> tuple[dict[str, Any], dict[str, Any], float, float]:
    """The counts of both, the median ratio of their times, and milliseconds a step."""
    now, then = Contestant(case, ROOT), Contestant(case, before)
    try:
        steps = 1
        while now.seconds(steps) < TURN:
            steps *= 2
        then.seconds(steps)
        ratios, milliseconds = [], []
        for i in range(pairs):
            order = (now, then) if i % 2 == 0 else (then, now)
            took = {c: c.seconds(steps) for c in order}
            ratios.append(took[now] / took[then])
            milliseconds.append(1e3 * took[now] / steps)
    finally:
        now.close()
        then.close()
    return now.counts, then.counts, statistics.median(ratios), statistics.median(milliseconds)


@contextmanager
def other_checkout(before: str) -> Iterator[Path]:
    """A folder with the other mlopt: the one that is named, or one made of a commit for a while."""
    if Path(before).is_dir():
        yield Path(before).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder).resolve() / "before"
        subprocess.run([*git, "add", "--quiet", "--detach", str(made), before], check=True)
        try:
            yield made
        finally:
            subprocess.run([*git, "remove", "--force", str(made)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, help="the other commit, or a folder with one")
    parser.add_argument(
        "--cases", nargs="+", help="by their beginnings (default: all that are not large)"
    )
    parser.add_argument("--starts", type=int, default=9, help="of the processes of each case")
    parser.add_argument("--pairs", type=int, default=7, help="of turns in each of them")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    from versions_worker import cases

    torch.set_num_threads(1)
    wanted = tuple(options.cases or ())
    names = [n for n in cases() if (n.startswith(wanted) if wanted else not n.startswith("large"))]
    if not names:
        parser.error(f"no case begins so; there are {', '.join(cases())}")
    rows = []
    with other_checkout(options.before) as before:
        for name in names:
            rows.append(measure(name, before, options.starts, options.pairs))
            print(*rows[-1].values(), sep="   ", flush=True)
    extra = (
        "in each column this checkout first, then the other; ratios of CPU seconds, median and its "
        f"95 % interval over {options.starts} starts of {options.pairs} pairs of turns of {TURN} s "
        "or more."
    )
    title = f"Steps of this checkout against those of {options.before}"
    text = f"{header(title, 'cpu', extra)}\n{format_table(rows, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

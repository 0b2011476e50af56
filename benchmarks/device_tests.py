"""The tests that compute, on a device: those with the fixture `device`, with `pytest --device`.

    python benchmarks/device_tests.py --device cuda
    python benchmarks/device_tests.py tests/solvers --device cuda --workers 0 --output x.md

Ends with status 1 if a test has failed, if none has passed, or if some did not run in the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from header import header

from mlopt.report import format_table

BENCHMARKS = Path(__file__).resolve().parent
MOST_WORKERS, MOST_SHOWN, SLOWEST = 12, 100, 5
Record = dict[str, Any]


def run(options: argparse.Namespace, record: Path) -> bool:
    """Run pytest, which writes into `record`; whether it ended in the time."""
    command = [sys.executable, "-m", "pytest", "-p", "device_tests_plugin"]
    command += ["-p", "no:cacheprovider", "-q", "--device", options.device]
    command += ["--record", str(record), *options.paths]
    command += [f"--ignore={path}" for path in options.without]
    if options.workers:
        command += ["--numprocesses", str(options.workers), "--dist", "worksteal"]
    paths = [str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        subprocess.run(
            command, cwd=BENCHMARKS.parent, env=environment, timeout=options.limit, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return True


def read(record: Path) -> tuple[list[Record], int]:
    """What each test has come to, the worst of its phases; and how many tests there are."""
    found: dict[str, Record] = {}
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    for line in map(json.loads, lines):
        known = found.get(line["test"])
        if known is None or known["outcome"] == "passed":
            found[line["test"]] = line
    selected = Path(f"{record}.selected")
    return list(found.values()), int(selected.read_text()) if selected.exists() else 0


def report(found: list[Record], selected: int, in_time: bool, options: argparse.Namespace) -> str:
    counts = Counter(line["outcome"] for line in found)
    left = max(0, selected - len(found))
    extra = f"{options.workers} processes" if options.workers else "one process"
    if not in_time:
        extra += f"; ended after {options.limit:.0f} s, before the last test"
    text = f"{header('The tests on the device', options.device, f'{extra}.')}\n"
    text += (
        f"Of {selected} tests that use the device: {counts['passed']} passed, "
        f"{counts['failed']} failed, {counts['skipped']} skipped, {left} did not run.\n"
    )
    for outcome in ("failed", "skipped"):
        rows = [{"test": x["test"], "why": x["why"]} for x in found if x["outcome"] == outcome]
        if rows:
            text += f"\n## {outcome.capitalize()}\n\n"
            text += f"{format_table(rows[:MOST_SHOWN], markdown=True)}\n"
        if len(rows) > MOST_SHOWN:
            text += f"\nAnd {len(rows) - MOST_SHOWN} more.\n"
    slowest = sorted(found, key=lambda line: -line["seconds"])[:SLOWEST]
    rows = [{"test": x["test"], "seconds": round(x["seconds"], 1)} for x in slowest]
    return text + (f"\n## Slowest\n\n{format_table(rows, markdown=True)}\n" if rows else "")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=["tests"], help="of tests (default: all)")
    parser.add_argument("--without", nargs="+", default=[], metavar="PATH", help="left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=600, help="seconds")
    parser.add_argument("--workers", type=int, help="processes (0: this one; the default on a CPU)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.workers is None:
        cpus = os.cpu_count() or 1
        options.workers = 0 if options.device == "cpu" else min(MOST_WORKERS, cpus)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        in_time = run(options, record)
        found, selected = read(record)
    text = report(found, selected, in_time, options)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    outcomes = Counter(line["outcome"] for line in found)
    return int(outcomes["failed"] > 0 or not outcomes["passed"] or len(found) < selected)


if __name__ == "__main__":
    sys.exit(main())

"""The parts of `gpu.py`: each a process with its own limit of time, none of which stops another."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

from header import header

from mlopt.report import format_table

__all__ = ["ROOT", "Outcome", "Part", "run_part", "run_parts", "summary"]

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent
LAST_LINES, TO_WRITE, CPU_PATIENCE = 30, 10, 10


@dataclass(frozen=True)
class Part:
    """Something to run on the device.

    Attributes:
        name: of the part, and of its file.
        shows: what, in a few words.
        program: a file beside this one, with the options --device and --output; it ends with a
            status other than 0 if what it shows is wrong.
        arguments: of the program on a GPU, as one writes them in a shell; {limit} stands for the
            seconds that it has, less those it needs to write its file.
        smallest: of the program on the CPU, where it is only shown to run.
        limit: in seconds, on a GPU; a CPU has far longer.
        timed: whether it measures time: then it runs alone, and else beside other parts.
    """

    name: str
    shows: str
    program: str
    arguments: str = ""
    smallest: str = ""
    limit: float = 60
    timed: bool = True

    @property
    def file(self) -> str:
        return f"{self.name}.md"

    def command(self, device: str, out: Path, limit: float) -> list[str]:
        chosen = self.smallest if device == "cpu" else self.arguments
        chosen = chosen.replace("{limit}", f"{max(limit - TO_WRITE, 1):.0f}")
        where = ["--device", device, "--output", str(out / self.file)]
        return [sys.executable, str(BENCHMARKS / self.program), *shlex.split(chosen), *where]


@dataclass(frozen=True)
class Outcome:
    """How a part has ended: "passed", or what was wrong."""

    part: Part
    status: str
    seconds: float = 0.0


def run_parts(parts: Iterable[Part], device: str, out: Path, budget: float) -> list[Outcome]:
    """Run the parts that are not timed side by side, then the timed ones one after the other.

    No part is started when `budget` seconds are over.
    """
    (ROOT / out).mkdir(parents=True, exist_ok=True)
    patience = CPU_PATIENCE if device == "cpu" else 1
    began, parts = monotonic(), list(parts)

    def outcome(part: Part) -> Outcome:
        left = budget - (monotonic() - began)
        if left <= 0:
            found = Outcome(part, "left out")
        else:
            print(f"{part.name}: {part.shows} ...", flush=True)
            found = run_part(part, device, out, min(patience * part.limit, left))
        print(f"{part.name}: {found.status}, {found.seconds:.0f} s", flush=True)
        return found

    together = [part for part in parts if not part.timed]
    with ThreadPoolExecutor(len(together) or 1) as pool:
        outcomes = dict(zip(together, pool.map(outcome, together), strict=True))
    outcomes |= {part: outcome(part) for part in parts if part.timed}
    return [outcomes[part] for part in parts]


def run_part(part: Part, device: str, out: Path, limit: float) -> Outcome:
    """Run a part until it ends or `limit` seconds are over.

    Args:
        part: what is run.
        device: where.
        out: folder of its file, from the root of the repository if it is relative.
        limit: in seconds.

    Returns:
        How it ended. If not well, its last lines are printed, and are in its file if the part
        itself has not written one.
    """
    file = ROOT / out / part.file
    for earlier in (file, file.with_suffix(".svg")):  # a chart may stand beside the table
        earlier.unlink(missing_ok=True)
    command, began = part.command(device, out, limit), monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        code = _ended(command, log, limit)
        log.seek(0)
        last = "".join(log.readlines()[-LAST_LINES:])
    seconds = monotonic() - began
    if code == 0 and file.exists():
        return Outcome(part, "passed", seconds)
    status = _said(code, limit)
    last = last.replace(f"{ROOT}{os.sep}", "").replace(sys.prefix, "<environment>")
    print(last, flush=True)
    if not file.exists():
        shown = shlex.join(["python", f"benchmarks/{part.program}", *command[2:]])
        head = header(f"{part.name}: {status}", device, "what the part said last.")
        file.write_text(f"{head}\n`{shown}`\n\n```\n{last}```\n", encoding="utf-8")
    return Outcome(part, status, seconds)


def _said(code: int | None, limit: float) -> str:
    """The end of a part that has not passed, in words."""
    if code is None:
        return f"out of time ({limit:.0f} s)"
    if code < 0:
        return f"failed: {signal.Signals(-code).name}"
    return f"failed: status {code}" if code else "failed: it wrote no file"


def _ended(command: Sequence[str], log: IO[str], limit: float) -> int | None:
    """The status of a process; None where its time was over. Nothing that it started is left."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, which can be ended as a whole
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def summary(outcomes: Sequence[Outcome], device: str, budget: float) -> str:
    """The table of all parts as a result file, and in words which ones were left out."""
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    extra = f"{passed} of {len(outcomes)} parts passed, in {seconds:.0f} s."
    rows = [
        {"part": o.part.name, "status": o.status, "seconds": round(o.seconds), "file": o.part.file}
        for o in outcomes
    ]
    text = f"{header('What was run on the device', device, extra)}\n"
    text += f"{format_table(rows, markdown=True)}\n"
    left = [outcome.part.name for outcome in outcomes if outcome.status == "left out"]
    if left:
        text += f"\nThe {budget:.0f} s of the whole were spent before: {', '.join(left)}.\n"
    return text

"""The examples of architecture search on a device, from the loader to the report, in short runs.

Each is a command of its own, as a user types it, on the embedded digits: in bfloat16, on a GPU in
channels-last (see `formats.py`), and batches from the host. It shows that a whole run ends, and how
long it takes, not what it finds.

    python benchmarks/device_searches.py --device cuda
    python benchmarks/device_searches.py --examples darts --smallest

Ends with status 1 if a run has failed; its last lines are in the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from header import header

from mlopt.report import format_table

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {"darts": (), "lfm_cw_darts": (), "sgl_darts": ("--no-beside-plain",)}
SHORT = "--order first --precision bf16 --epochs 2 --generator-epochs 1 --eval-epochs 1"
SMALLEST = (
    "--channels 4 --nodes 1 --cells 1 --epochs 1 --generator-epochs 0 --batch-size 16 "
    "--train-images 64 --eval-channels 2 --eval-cells 1"
)
LAST_LINES = 15


def run(example: str, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One line of the table, and what a run that failed said last."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        command = [sys.executable, f"examples/{example}.py", *SHORT.split(), *EXAMPLES[example]]
        command += SMALLEST.split() if options.smallest else []
        command += ["--channels-last"] if options.device != "cpu" else []
        command += ["--device", options.device, "--run-folder", str(place)]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        row: dict[str, Any] = {"example": example, "status": done.returncode}
        row["seconds"] = round(time.perf_counter() - began, 1)
        if done.returncode:
            said = (done.stdout + done.stderr).replace(f"{ROOT}/", "").splitlines()
            return row, "\n".join(said[-LAST_LINES:])
        found = json.loads((place / "result.json").read_text(encoding="utf-8"))["rows"][0]
        for key in ("search_seconds", "test_error"):
            row[key.replace("_", " ")] = round(found[key], 1)
        row["report"] = "yes" if (place / "report.html").exists() else "no"
    return row, ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=list(EXAMPLES))
    parser.add_argument("--smallest", action="store_true", help="networks of a few numbers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    rows, failures = [], []
    for example in options.examples:
        row, said = run(example, options)
        print(row, flush=True)
        rows.append(row)
        if said:
            failures.append(f"## {example}\n\n```\n{said}\n```\n")
    text = f"{header('Searches on the device', options.device, f'each with `{SHORT}`.')}\n"
    text += "\n".join([f"{format_table(rows, markdown=True)}\n", *failures])
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(any(row["status"] or row["report"] == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())

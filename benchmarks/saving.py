"""How much of the time of a search goes into saving it: in `Checkpoint.save`, against all the rest.

    python benchmarks/saving.py --output benchmarks/results/saving_cpu.md
    python benchmarks/saving.py --examples darts --every 100 --steps 200

A search of the preset `quick`, with all levels at work from the first step on, once for each
`--every`, into a temporary folder; `--folder` names one on another disk. 0 is the default of the
examples: whenever saving takes less than a hundredth of the time. The checkpoint at the end of the
run is counted, too. The rest is steps alone, without validation, logs and the report.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from header import header

import mlopt
from mlopt.report import format_table

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))

from support.pipeline.proof import first_engine  # noqa: E402
from support.settings import parse  # noqa: E402

EXAMPLES = ("lfm_cw_darts", "sgl_darts", "darts")


class Timed(mlopt.Checkpoint):
    """A checkpoint that counts its seconds."""

    def __init__(self, folder: Path, every: int | None) -> None:
        super().__init__(folder, every=every)
        self.seconds: list[float] = []
        self.bytes = 0

    def save(self, engine: mlopt.Engine) -> None:
        began = time.perf_counter()
        super().save(engine)
        self.seconds.append(time.perf_counter() - began)
        newest = max(self.folder.glob("step_*.ckpt"))
        self.bytes = newest.stat().st_size


def measure(example: str, every: int, steps: int, device: str, folder: str) -> dict[str, Any]:
    """A row: so many steps of the search of an example, saved every so many."""
    s = parse(None, ["--device", device], example=example)
    s = dataclasses.replace(s, generator_epochs=0, pretrain=0, warmup=0)
    engine = first_engine(importlib.import_module(example).scheme.of(s), s)
    engine.step()  # checks the functions
    with tempfile.TemporaryDirectory(dir=folder or None) as inside:
        saving = Timed(Path(inside, "checkpoints"), every or None)
        began = time.perf_counter()
        engine.run(steps=steps, callbacks=[saving], progress=False)
        rest = time.perf_counter() - began - sum(saving.seconds)
    return {
        "example": example,
        "every": every or "by its time",
        "steps": steps,
        "ms a step": f"{1e3 * rest / steps:.1f}",
        "saved": len(saving.seconds),
        "ms a checkpoint (median)": f"{1e3 * statistics.median(saving.seconds):.1f}",
        "MiB": f"{saving.bytes / 2**20:.2f}",
        "saving / steps": f"{100 * sum(saving.seconds) / rest:.2f} %",
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", nargs="+", choices=EXAMPLES, default=EXAMPLES)
    parser.add_argument("--every", type=int, nargs="+", default=[100, 0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", default="", help="where checkpoints are written")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for example in options.examples:
        for every in options.every:
            rows.append(measure(example, every, options.steps, options.device, options.folder))
            print(rows[-1], flush=True)
    extra = "seconds in Checkpoint.save, its fsync among them, against those of all the rest."
    text = f"{header('What saving takes of a search', options.device, extra)}\n"
    text += f"{format_table(rows, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

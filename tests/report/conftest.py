"""A made-up run folder that has everything a report can show, with the noise of a real run."""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mlopt.report import RunFolder

CELL = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 150" font-family="sans-serif"
 font-size="12"><g fill="#e6f0f8" stroke="#0064a6"><rect x="5" y="15" width="70" height="30"/>
<rect x="5" y="105" width="70" height="30"/><rect x="175" y="60" width="60" height="30"/>
<rect x="335" y="60" width="70" height="30"/></g><g stroke="#555" fill="none"
><path d="M75 30 L175 70"/>
<path d="M75 120 L175 80"/><path d="M235 75 L335 75"/></g><text x="18" y="35">c_{k-2}</text>
<text x="18" y="125">c_{k-1}</text><text x="200" y="80">0</text><text x="352" y="80">c_{k}</text>
<text x="95" y="25">sep_conv_3x3</text><text x="95" y="140">skip_connect</text></svg>"""


#: Each has a chart of its own, which takes longer to draw than all else to write.
CLASSES = 3


def png(width: int, height: int, grey) -> bytes:
    """A grey picture; `grey(x, y)` says how bright each of its pixels is, from 0 to 255."""
    lines = b"".join(b"\0" + bytes(grey(x, y) for x in range(width)) for y in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def _architecture(decided: float) -> dict[str, object]:
    """The mixtures of two operations on the five edges of a cell, and whether it is trained."""
    shares = [0.5 + 0.4 * decided * (1 if edge % 2 else -1) for edge in range(5)]
    tables = {f"weights/{kind}": [[a, 1 - a] for a in shares] for kind in ("normal", "reduce")}
    return {**tables, "operations": ["skip_connect", "sep_conv_3x3"], "trained": decided > 0.2}


def fill(folder: RunFolder, *, seed: int, lfm: bool = True) -> None:
    draw = random.Random(seed)
    epochs, steps = 12, 25
    folder.log("plan", step=-1, epoch=0, evaluations=7, backwards=10)
    problems = {"stage1": 2.1, "stage3": 2.2} | ({"stage2": 2.4} if lfm else {})
    elapsed = 0.0
    for step in range(epochs * steps):
        fall = math.exp(-step / (3.0 * steps))
        elapsed += draw.uniform(0.2, 0.26)
        row: dict[str, object] = {
            f"{name}/loss": 0.12 + start * fall * draw.uniform(0.75, 1.3)
            for name, start in problems.items()
        }
        row |= {f"{name}/lr": 0.1 * (1 - step / (epochs * steps)) for name in problems}
        if lfm:
            row["discriminator/loss"] = 1.0 + 0.4 * fall + draw.gauss(0, 0.08)
            row["generator/loss"] = 0.9 - 0.3 * fall + draw.gauss(0, 0.12)
            row["class_losses"] = [
                (0.06 + 0.055 * (c * 7 % 10)) + (1.6 + 0.1 * c) * fall * draw.uniform(0.7, 1.4)
                for c in range(CLASSES)
            ]
        folder.log("search", step=step, epoch=step // steps, seconds=elapsed, **row)
        if step % steps == steps - 1:
            epoch = step // steps
            error = 4 + 55 * fall + draw.gauss(0, 0.5)
            metrics = {"validation/error": error, "validation/loss": error / 28}
            metrics["entropy/normal"] = 2.08 - 0.07 * epoch
            metrics["entropy/reduce"] = 2.08 - 0.05 * epoch
            if lfm:
                metrics |= _architecture(epoch / epochs)
            folder.log("search-epoch", epoch=epoch, **metrics)
    for epoch in range(20):
        error = 1 + 40 * math.exp(-epoch / 3) + draw.random()
        metrics = {"train/loss": error / 30, "train/error": error, "lr": 0.025 * (20 - epoch) / 20}
        folder.log("retrain", epoch=epoch, seconds=4.2 + draw.random(), **metrics)
    folder.path("cells_normal.svg").write_text(CELL)
    folder.path("cells_reduce.svg").write_text(CELL)
    ops = ["sep_conv_3x3", "skip_connect", "max_pool_3x3", "dil_conv_3x3"]
    folder.save_json("genotype.json", {"normal": [[op, i] for i, op in enumerate(ops)]})


def make_run(root: Path) -> RunFolder:
    """The folder of a run of LFM-CW with a run of DARTS beside it."""
    settings = {"dataset": "digits", "epochs": 12, "batch_size": 64, "lambda": 1.0, "seeds": [0]}
    folder = RunFolder.create(root, settings)
    fill(folder, seed=0)
    for epoch in (0, 2, 4, 6, 8, 10, 11):
        sharp = 4 + epoch
        folder.path(f"samples/epoch_{epoch:04d}.png").write_bytes(
            png(80, 32, lambda x, y, s=sharp: (x * y * s + (x % 8) * (y % 8) * 5) % 256)
        )
    rows = [
        {"name": "LFM-CW", "search_seconds": 69.0, "passes": 8, "evaluations": 7}
        | {"parameters": 45632, "test_error": 1.67, "standard_error": 0.68, "memory_mb": 412.5},
        {"name": "DARTS", "search_seconds": 31.2, "passes": 2, "evaluations": 2}
        | {"parameters": 44210, "test_error": 2.22, "standard_error": 0.78, "memory_mb": 301.0},
        {"name": "logistic regression", "test_error": 4.72, "standard_error": 1.1},
        {"name": "chance", "test_error": 90.0},
    ]
    result = {
        "title": "LFM-CW on DARTS: search and retraining on digits",
        "dataset": "digits (1,797 images of 8 x 8)",
        "class_names": [str(c) for c in range(CLASSES)],
        "rows": rows,
        "notes": ["One seed. The standard error is that of the test set of 360 images."],
    }
    folder.save_json("result.json", result)
    with RunFolder.create(root / "darts", {"dataset": "digits", "epochs": 12}) as darts:
        fill(darts, seed=1, lfm=False)
    folder.close()
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The made-up run; tests must not change it."""
    return make_run(tmp_path_factory.mktemp("runs") / "first")


def _make_group(root: Path, learners: int) -> RunFolder:
    """The folder of a run of several learners, the last of whom is the best."""
    folder = RunFolder.create(root, {"learners": learners})
    everyone = range(1, learners + 1)
    for epoch in range(6):
        loss = {k: 2.0 / (epoch + k) for k in everyone}
        metrics = {f"learner_{k}/validation/loss": loss[k] for k in everyone}
        metrics |= {f"learner_{k}/entropy/normal": 2.08 - 0.1 * k * epoch for k in everyone}
        metrics |= {"agreement/edges": 0.5, "agreement/total_variation": 0.02 * epoch}
        folder.log("search-epoch", epoch=epoch, **metrics)
        folder.log("search", step=epoch, **{f"learner_{k}/stage1/loss": loss[k] for k in everyone})
        folder.log("retrain", epoch=epoch, **{f"learner_{learners}/train/loss": 1.0 / (epoch + 1)})
    rows = [
        {"name": f"learner {k}", "validation/loss": 2.0 / (5 + k), "entropy/normal": 2.08 - 0.5 * k}
        | {"genotype": f"normal cell of {k}\n  2 = skip_connect(0)"}
        for k in reversed(everyone)
    ]
    rows[0] |= {"test_error": 3.25, "standard_error": 0.5, "parameters": 1234}
    pairs = [
        {"names": ["learner 1", f"learner {k}"], "edges": 0.75, "operations": 0.25}
        | {"total_variation": 0.1}
        for k in everyone[1:]
    ]
    folder.save_json("learners.json", {"learners": rows, "pairs": pairs})
    folder.save_json("result.json", {"rows": [{"name": "SGL", "test_error": 3.25}]})
    for k in everyone:
        folder.path(f"cells_learner_{k}.svg").write_text(CELL)
    folder.close()
    return folder


@pytest.fixture
def make_group() -> Callable[[Path, int], RunFolder]:
    """Makes a made-up run of several learners in a folder."""
    return _make_group

"""Steps of LFM-CW on several ranks beside one: images a second, and what the machine can give.

    python benchmarks/ranks.py --output benchmarks/results/ranks_cpu.md
    python benchmarks/ranks.py --size tiny --batch 8 --rounds 2
    python benchmarks/ranks.py --ranks 4 --device cuda

Every round takes the same steps on one process and on several, each of which has its share of every
batch; steps of as many processes with such shares that know nothing of each other, which is what
ranks could reach at the most; and the same matrix products, so many times on one process and on
each of several, which is what this machine can give to anybody. Ranks are processes of gloo on the
CPU, of NCCL on GPUs.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lfm_cw_step
import torch
import torch.distributed as dist
from header import header
from timing import wait

from mlopt._containers.rows import even
from mlopt.report import format_table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=lfm_cw_step.SIZES, default="c8l5")
    parser.add_argument(
        "--batch", type=int, default=64, help="images a step, on all ranks together"
    )
    parser.add_argument("--image", type=int, help="pixels a side (default: of the size)")
    parser.add_argument("--variants", nargs="+", default=["first order", "central"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="in each measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if "RANK" not in os.environ:
        return _launch(options.ranks)
    return _work(options)


def _launch(ranks: int) -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, *sys.argv]
    children = [
        subprocess.Popen(
            command, env={"OMP_NUM_THREADS": "1", **os.environ, **where, "RANK": str(r)}
        )
        for r in range(ranks)
    ]
    return max(abs(child.wait()) for child in children)


def _work(options: argparse.Namespace) -> int:
    rank = int(os.environ["RANK"])
    device = options.device
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    size = lfm_cw_step.SIZES[options.size]
    size["batch"], size["image"] = options.batch, options.image or size["image"]
    rows = [_compare(variant, rank, device, options) for variant in options.variants]
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        extra = (
            f"float32, {options.batch} images a step on {options.ranks} ranks together, one "
            f"thread each; medians of {options.rounds} rounds of {options.steps} steps. speed-up: "
            "images a second on all ranks against those on one; apart: of processes with such "
            "shares by themselves; machine: of matrix products; share: speed-up by machine, in "
            "each round."
        )
        title = "Steps of LFM-CW on several ranks"
        text = f"{header(title, device, extra)}\n{lfm_cw_step.SIZES[options.size]}\n\n"
        text += f"{format_table(rows, markdown=True)}\n"
        print(text)
        if options.output:
            options.output.write_text(text, encoding="utf-8")
    return 0


def _compare(variant: str, rank: int, device: str, options: argparse.Namespace) -> dict[str, Any]:
    def engine(share: bool, ranked: bool) -> Any:
        world = lfm_cw_step.World.make(options.size, device)
        if share:
            sizes = even(options.batch, options.ranks)
            rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            world.train, world.valid = (
                tuple(t[rows] for t in batch)  # type: ignore[assignment]
                for batch in (world.train, world.valid)
            )
        return lfm_cw_step.engine(world, variant, ranks=None if ranked else False)[0]

    alone = engine(False, False).step if rank == 0 else _nothing
    apart, together = engine(True, False).step, engine(True, True).step
    a = torch.randn(384, 384, device=device)

    def product() -> None:
        for _ in range(200):
            a @ a  # noqa: B018

    single = product if rank == 0 else _nothing
    work = {
        "one": alone, "apart": apart, "all": together, "product": single, "products": product,
    }  # fmt: skip
    for step in work.values():
        _seconds(step, 1, device)
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, step in work.items():
            times[name].append(_seconds(step, options.steps, device))
    speed, most = (
        [a / b for a, b in zip(times["one"], times[name], strict=True)] for name in ("all", "apart")
    )
    machine = [
        options.ranks * a / b for a, b in zip(times["product"], times["products"], strict=True)
    ]
    share = [a / b for a, b in zip(speed, machine, strict=True)]
    per_step = 1e3 / options.steps
    return {
        "variant": variant,
        "ms, one": round(statistics.median(times["one"]) * per_step, 1),
        "ms, all": round(statistics.median(times["all"]) * per_step, 1),
        "speed-up": round(statistics.median(speed), 3),
        "apart": round(statistics.median(most), 3),
        "machine": round(statistics.median(machine), 3),
        "share": round(statistics.median(share), 3),
    }


def _nothing() -> None:
    """What a rank does while another one is measured alone."""


def _seconds(step: Callable[[], object], count: int, device: str) -> float:
    """What it takes until all ranks have done it so often."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(count):
        step()
    wait(device)
    dist.barrier()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

"""Memory of a step whose lower level is sharded over ranks, beside one process that has all of it.

    python benchmarks/memory_sharded.py --output benchmarks/results/memory_sharded_cpu.md
    python benchmarks/memory_sharded.py --width 256 --layers 4
    python benchmarks/memory_sharded.py --ranks 4 --device cuda

The lower level is an MLP of many layers, the upper one weights its samples. Each row is measured in
processes of its own: the most memory in use from before the model is made to the end of the first
step, with its checks, beyond what was in use before. Layers are sharded as they are made
(`torch.distributed.fsdp.fully_shard`), so that no rank ever has all of them. Ranks are processes of
gloo on the CPU, of NCCL on GPUs.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from header import header
from memory import peak_bytes
from torch import nn
from torch.nn.functional import mse_loss

import mlopt
from mlopt.report import format_table

PRODUCTS = {"central": mlopt.Central(), "exact": mlopt.Exact()}
SAMPLES = 8


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=[*PRODUCTS])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if "MEMORY_OF" in os.environ:
        print(measure(os.environ["MEMORY_OF"], options), flush=True)
        return 0
    rows = [row(product, options) for product in options.products]
    numbers = options.layers * options.width * (options.width + 1)
    extra = (
        f"float32, one thread a process; a lower level of {numbers:,} parameters in "
        f"{options.layers} layers, {SAMPLES} samples on all ranks together, SGD with momentum; "
        "MiB: the peak of a process, of several that of the largest, from before the model is made "
        "to the end of the first step, beyond what was in use before; ratio: of the two."
    )
    title = "Memory of a step with a sharded lower level"
    text = f"{header(title, options.device, extra)}\n{format_table(rows, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return 0


def row(product: str, options: argparse.Namespace) -> dict[str, Any]:
    """A product's memory on one process, and on ranks."""
    (alone,) = launch(product, 1)
    ranks = launch(product, options.ranks)
    return {
        "product": product,
        "MiB, one process": round(alone / 2**20),
        f"MiB, each of {options.ranks}": round(max(ranks) / 2**20),
        "ratio": round(max(ranks) / alone, 3),
    }


def launch(product: str, ranks: int) -> list[int]:
    """What each of so many new processes measures."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    # Large tensors go back to the system when they are freed, whatever was freed before.
    fixed = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MEMORY_OF": product}
    children = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, **fixed, **where, "RANK": str(r)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(ranks)
    ]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a process has failed: see above")
    return [int(text.splitlines()[-1]) for text in said]


def measure(product: str, options: argparse.Namespace) -> int:
    """The peak of this process, beyond what it has before the model is made."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = options.device
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo" if device == "cpu" else "nccl")
        from torch.distributed.fsdp import fully_shard  # noqa: F401 - an import is no memory of it
    engine_of(product, 16, 2, device, ranks).step()  # what is loaded when first used
    before = peak_bytes(device, reset=True)
    engine_of(product, options.width, options.layers, device, ranks).step()
    peak = peak_bytes(device) - before
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    return peak


def engine_of(product: str, width: int, layers: int, device: str, ranks: int) -> mlopt.Engine:
    """Two levels: a wide network, and the weights of its samples."""
    torch.manual_seed(0)
    W = mlopt.Variable(network(width, layers, device, ranks), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(SAMPLES, device=device)), "a")
    x, y = (torch.randn(SAMPLES, width, device=device) for _ in range(2))
    data = [(x, y, torch.arange(SAMPLES, device=device))]
    if ranks > 1:
        each = SAMPLES // ranks
        mine = slice(dist.get_rank() * each, (dist.get_rank() + 1) * each)
        data = [tuple(t[mine] for t in data[0])]  # type: ignore[misc]
    stream = mlopt.Stream(data)

    @mlopt.problem(
        over=W,
        given=[A],
        data=stream,
        optimizer=torch.optim.SGD(W.parameters(), lr=1e-3, momentum=0.9),
        hypergrad=mlopt.OneStep(product=PRODUCTS[product]),
    )
    def lower(w, a, batch):
        x, y, of = batch
        return (a[of].exp() * mse_loss(w(x), y, reduction="none").mean(1)).mean()

    @mlopt.problem(
        over=A, given=[W], data=stream, optimizer=torch.optim.SGD(A.parameters(), lr=1e-3)
    )
    def upper(a, w, batch):
        x, y, _ = batch
        return mse_loss(w(x), y)

    return mlopt.Engine([lower, upper], ranks=None if ranks > 1 else False)


def network(width: int, layers: int, device: str, ranks: int) -> nn.Module:
    """An MLP; on ranks each layer is sharded when it is made."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        layer = nn.Linear(width, width, device=device)
        nn.init.normal_(layer.weight, std=width**-0.5)  # or little is left of a deep one's input
        parts += [layer, nn.Tanh()]
        if ranks > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(device.partition(":")[0], (ranks,))
            fully_shard(parts[-2], mesh=mesh)
    return nn.Sequential(*parts)


if __name__ == "__main__":
    sys.exit(main())

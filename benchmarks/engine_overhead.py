"""What an engine costs: microseconds per step, per problem and per parameter tensor.

The problems are so small that nothing else is measured. A bilevel problem of ten numbers is stepped
by mlopt, by a bare loop, and by the libraries that can: Betty (type darts) beside the central
difference, TorchOpt's MetaSGD and higher (one unrolled step) beside the exact product. "own" is
what mlopt's step takes beyond the loop's.

    python benchmarks/engine_overhead.py
    python benchmarks/engine_overhead.py --device cuda --output benchmarks/results/x.md

Times are taken in alternated rounds: a ratio holds on a noisy machine, a time does not. How to
install the others is written in `peers/__init__.py`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine_overhead_steps import CONTESTANTS, PRODUCTS, World
from header import header
from timing import ratio, rounds
from torch import nn

import mlopt
from mlopt.report import format_table

Step = Callable[[], None]
Row = dict[str, Any]

PROBLEMS, TENSORS = (2, 4, 8, 16), (10, 100, 1000)


def repeated(step: Step, count: int) -> Step:
    """A block of steps, long enough for the clock."""

    def block() -> None:
        for _ in range(count):
            step()

    return block


def microseconds(steps: dict[str, Step], count: int, block: int, device: str) -> dict[str, list]:
    """Of one step of each contestant, in each round."""
    times = rounds({name: repeated(step, block) for name, step in steps.items()}, count, device)
    return {name: [1e6 * t / block for t in found] for name, found in times.items()}


def bilevel_row(product: str, size: int, count: int, block: int, device: str) -> Row:
    """One row: all who can take this product."""
    steps: dict[str, Step] = {}
    for name, build in CONTESTANTS.items():
        step = build(World(size, device), product)
        if step is not None:
            steps[name] = step
    steps["hand again"] = CONTESTANTS["hand"](World(size, device), product)
    times = microseconds(steps, count, block, device)
    again = times.pop("hand again")
    row: Row = {"product": product}
    row |= {f"{name}, us": round(statistics.median(found)) for name, found in times.items()}
    row |= {f"mlopt / {n}": ratio(times["mlopt"], t) for n, t in times.items() if n != "mlopt"}
    # What the engine adds to the loop, and what part that is of Betty's whole step.
    own = [ours - bare for ours, bare in zip(times["mlopt"], times["hand"], strict=True)]
    row["own, us"] = round(statistics.median(own))
    if "Betty" in times:
        row["own / Betty"] = ratio(own, times["Betty"])
    row["hand / hand"] = ratio(again, times["hand"])
    return row


def bilevel_rows(size: int, count: int, block: int, device: str) -> list[Row]:
    """All products; times first, then ratios, whoever can take which."""
    rows = [bilevel_row(product, size, count, block, device) for product in PRODUCTS]
    names = dict.fromkeys(key for row in rows for key in row)
    columns = sorted(names, key=lambda key: (key != "product", " / " in key, key == "hand / hand"))
    return [{key: row.get(key) for key in columns} for row in rows]


# Growth.


def problems_step(count: int, device: str) -> Step:
    """Problems of ten numbers each, of which none reads another."""
    nodes = []
    for i in range(count):
        W = mlopt.Variable(nn.Parameter(torch.zeros(10, device=device)), f"w{i}")

        @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), 0.1), name=f"problem{i}")
        def lonely(w):
            return ((w - 1) ** 2).sum() / 2

        nodes.append(lonely)
    engine = mlopt.Engine(nodes)
    return lambda: engine.step() and None


def problems_hand(count: int, device: str) -> Step:
    tensors = [nn.Parameter(torch.zeros(10, device=device)) for _ in range(count)]
    optimizers = [torch.optim.SGD([w], 0.1) for w in tensors]

    def step() -> None:
        for w, optimizer in zip(tensors, optimizers, strict=True):
            (w.grad,) = torch.autograd.grad(((w - 1) ** 2).sum() / 2, w)
            optimizer.step()

    return step


class Many(nn.Module):
    """Many tensors of one number each."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = nn.ParameterList(torch.full((1,), 0.5) for _ in range(count))

    def forward(self) -> torch.Tensor:
        return torch.cat(list(self.values))


def many_lower(w: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return ((w.sin() - a) ** 2).mean()


def many_upper(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return ((w - 1) ** 2).mean() + (a**2).sum() / 2


def tensors_step(count: int, device: str) -> Step:
    """A bilevel problem by `Central`, whose lower module has so many tensors."""
    W = mlopt.Variable(Many(count).to(device), "w")
    A = mlopt.Variable(nn.Parameter(torch.ones(1, device=device)), "a")

    @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD(W.parameters(), 0.1))
    def lower(w, a):
        return many_lower(w(), a)

    @mlopt.problem(over=A, given=[W], optimizer=torch.optim.SGD(A.parameters(), 0.1))
    def upper(a, w):
        return many_upper(a, w())

    engine = mlopt.Engine([lower, upper], hypergrad=mlopt.OneStep(product=mlopt.Central()))
    return lambda: engine.step() and None


def tensors_hand(count: int, device: str) -> Step:
    net, ahead = Many(count).to(device), Many(count).to(device)
    a = nn.Parameter(torch.ones(1, device=device))
    p, q = list(net.parameters()), list(ahead.parameters())
    lower_sgd, upper_sgd = torch.optim.SGD(p, 0.1), torch.optim.SGD([a], 0.1)
    grad = torch.autograd.grad

    def step() -> None:
        g = grad(many_lower(net(), a.detach()), p)
        with torch.no_grad():
            torch._foreach_copy_(q, torch._foreach_add(p, g, alpha=-0.1))
        total, *c = grad(many_upper(a, ahead()), [a, *q])
        with torch.no_grad():
            u = torch._foreach_mul(c, 0.1)
            e = 0.01 / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(u)))
            moved = torch._foreach_mul(u, e)
            torch._foreach_copy_(q, torch._foreach_add(p, moved))
        (plus,) = grad(many_lower(ahead(), a), a)
        with torch.no_grad():
            torch._foreach_copy_(q, torch._foreach_sub(p, moved))
        (minus,) = grad(many_lower(ahead(), a), a)
        for parameter, t in zip(p, g, strict=True):
            parameter.grad = t
        a.grad = total - (plus - minus) / (2 * e)
        lower_sgd.step()
        upper_sgd.step()

    return step


GROWTH = {
    "problems": (problems_step, problems_hand, PROBLEMS),
    "tensors": (tensors_step, tensors_hand, TENSORS),
}


def growth_rows(what: str, sizes: list[int], count: int, block: int, device: str) -> list[Row]:
    ours, theirs, _ = GROWTH[what]
    rows: list[Row] = []
    for size in sizes:
        steps = {"mlopt": ours(size, device), "hand": theirs(size, device)}
        times = microseconds(steps, count, max(1, block // size), device)
        rows.append({what: size, **{f"{n}, us": statistics.median(t) for n, t in times.items()}})
        rows[-1]["mlopt / hand"] = ratio(times["mlopt"], times["hand"])
    return rows


def slope(rows: list[Row], what: str, name: str) -> float:
    """Microseconds for each one more: from the smallest size to the largest."""
    first, last = rows[0], rows[-1]
    return (last[f"{name}, us"] - first[f"{name}, us"]) / (last[what] - first[what])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--block", type=int, default=100, help="steps timed together")
    parser.add_argument("--size", type=int, default=10, help="numbers of a variable")
    parser.add_argument("--problems", type=int, nargs="+", default=list(PROBLEMS))
    parser.add_argument("--tensors", type=int, nargs="+", default=list(TENSORS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    for counts in (options.problems, options.tensors):
        if len(counts) < 2 or sorted(set(counts)) != counts:
            parser.error("--problems and --tensors take two or more counts, ascending.")
    logging.disable(logging.INFO)  # Betty reports its graph
    count, block, device = options.pairs, options.block, options.device
    rows = bilevel_rows(options.size, count, block, device)
    table = format_table(rows, markdown=True)
    extra = f"{count} rounds of {block} steps, all contestants in turn; medians [quartiles]."
    text = f"{header('What the engine costs', device, extra)}\n"
    text += f"A bilevel problem of {options.size} numbers a level, one step:\n\n{table}\n"
    for what, sizes in (("problems", options.problems), ("tensors", options.tensors)):
        found = growth_rows(what, sizes, count, block, device)
        a, b = (slope(found, what, name) for name in ("mlopt", "hand"))
        kind = {"problems": "Independent problems", "tensors": "Parameter tensors, central"}[what]
        text += f"\n{kind}: {a:.1f} us for each (by hand {b:.1f})."
        text += f"\n\n{format_table(found, markdown=True)}\n"
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""How finite differences and the exact product agree while a search goes on.

DARTS of second order on the embedded digits. Before the first step, and after some steps of the
search, the term of the architecture's gradient that passes through the weights is computed at one
point, with the same batches, by each product: its cosine with that of `Exact`, and its relative
error.

    python benchmarks/product_agreement.py
    python benchmarks/product_agreement.py --channels 8 --cells 5 --steps 0 20 60

On a network with ReLU the two need not agree: a difference sees the kinks between its two points,
double backward sees none.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

import mlopt
from mlopt.data import load, loader, search_split
from mlopt.nas import DARTS
from mlopt.report import format_table

PRODUCTS: dict[str, Any] = {
    "central 1": mlopt.Central(1.0),
    "central 0.1": mlopt.Central(0.1),
    "central 0.01": mlopt.Central(0.01),
    "central 0.001": mlopt.Central(0.001),
    "one-sided 0.01": mlopt.OneSided(0.01),
}


class Search:
    """The search, and its gradients by any method at the point where it stands."""

    def __init__(self, channels: int, cells: int, nodes: int, batch: int) -> None:
        torch.manual_seed(0)
        space = DARTS(channels=channels, layers=cells, nodes=nodes)
        data = load("digits")
        self.a = space.architecture()
        self.w = space.supernet(data.classes, data.channels)
        train, valid = (loader(part, batch, drop_last=True, seed=0) for part in search_split(data))
        self.lr = torch.optim.SGD(self.w.parameters(), 0.1, momentum=0.9, weight_decay=3e-4)
        A, W = mlopt.Variable(self.a, "a"), mlopt.Variable(self.w, "w")
        self.A = A

        @mlopt.problem(over=W, given=[A], data=train, optimizer=self.lr)
        def weights(w, a, batch):
            return cross_entropy(w(batch[0], a()), batch[1])

        optimizer = torch.optim.Adam(A.parameters(), 3e-2, (0.5, 0.999), weight_decay=1e-3)

        @mlopt.problem(over=A, given=[W], data=valid, optimizer=optimizer)
        def architecture(a, w, batch):
            return cross_entropy(w(batch[0], a()), batch[1])

        self.problems = [weights, architecture]
        self.engine = mlopt.Engine(self.problems, hypergrad=mlopt.OneStep(product=mlopt.Central()))

    def gradient(self, method: Any) -> Tensor:
        """Of the architecture, at the present values and the first batches of a pass."""
        found = mlopt.Engine(self.problems, hypergrad=method).hypergradient(self.problems[1])
        return torch.cat([t.flatten() for t in found[self.A].values()])

    def through_weights(self, product: Any, direct: Tensor) -> Tensor:
        """The term that passes through the weights."""
        return self.gradient(mlopt.OneStep(product=product)) - direct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10, 30, 60, 100, 160])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", mlopt.CapabilityWarning)  # it says what is measured here
    search = Search(args.channels, args.cells, args.nodes, args.batch)
    rows: list[dict[str, object]] = []
    for steps in args.steps:
        search.engine.run(steps=steps - search.engine.steps, progress=False)
        direct = search.gradient(mlopt.StopGradient(mlopt.OneStep()))
        exact = search.through_weights(mlopt.Exact(), direct)
        row: dict[str, object] = {
            "steps": steps, "term / direct": f"{float(exact.norm() / direct.norm()):.2g}",
        }  # fmt: skip
        for name, product in PRODUCTS.items():
            term = search.through_weights(product, direct)
            cosine = float(cosine_similarity(term, exact, dim=0))
            row[name] = f"{cosine:.2f} ({float((term - exact).norm() / exact.norm()):.2g})"
        rows.append(row)
        print(row, flush=True)
    size = f"C = {args.channels}, {args.cells} cells of {args.nodes} nodes, batches of {args.batch}"
    note = f"{size}; cosine with the exact term, relative error in brackets."
    text = header("Products over a search", "cpu", note) + "\n"
    text += format_table(rows, list(rows[0])) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

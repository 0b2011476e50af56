"""The benchmark of products over a search, at its smallest."""

import sys
from pathlib import Path

import torch

import mlopt

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from product_agreement import Search  # noqa: E402


def test_terms_are_taken_at_one_point_and_leave_it():
    search = Search(channels=2, cells=1, nodes=1, batch=8)
    before = [p.detach().clone() for p in search.w.parameters()]
    direct = search.gradient(mlopt.StopGradient(mlopt.OneStep()))
    exact, again = (search.through_weights(mlopt.Exact(), direct) for _ in range(2))
    assert torch.equal(exact, again)
    assert exact.norm() > 0
    assert all(map(torch.equal, before, search.w.parameters()))
    search.engine.run(steps=1, progress=False)
    assert not torch.equal(search.gradient(mlopt.StopGradient(mlopt.OneStep())), direct)

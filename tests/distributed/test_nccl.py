"""The collectives of a GPU, as far as one GPU shows them: a group of one rank.

Where the machine has a GPU for each rank, all tests of this folder go by NCCL with `--device cuda`;
where it has fewer, by gloo.
"""

from __future__ import annotations

import pytest
from distributed.rank_graphs import CASES

SOME = ("central", "exact", "unrolled", "implicit", "joint")


@pytest.mark.parametrize(("graph", "method"), [c for c in CASES if c[1] in SOME])
def test_one_rank_of_nccl_is_no_ranks_to_the_bit(graph, method, one_of_nccl):
    assert one_of_nccl("distributed.laws:graph_law_of_one", graph, method) == ["nccl"]


def test_what_one_rank_of_nccl_adds_up(one_of_nccl):
    assert one_of_nccl("distributed.laws:sums_of_one") == [True]

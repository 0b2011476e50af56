"""How much two searches found the same."""

from __future__ import annotations

import pytest
import torch
from compare import exact, rounding

from mlopt._errors import SettingsError
from mlopt.nas import GENOTYPES, Architecture, Genotype, agreement, total_variation


def genotype(normal, reduce) -> Genotype:
    concat = tuple(range(2, len(normal) // 2 + 2))
    return Genotype(normal=normal, normal_concat=concat, reduce=reduce, reduce_concat=concat)


SKIPS = (("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 0), ("skip_connect", 2))


@pytest.mark.parametrize("name", GENOTYPES)
def test_a_genotype_agrees_with_itself(name) -> None:
    found = GENOTYPES[name]
    assert agreement(found, found) == {"edges": 1.0, "operations": 1.0}


def test_edges_and_operations_are_counted_over_both_cells() -> None:
    """Of 8 edges one is elsewhere, two have another operation; order within a node is none."""
    normal = (("skip_connect", 1), ("max_pool_3x3", 0), ("skip_connect", 1), ("skip_connect", 2))
    reduce = (("skip_connect", 0), ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 2))
    first, second = genotype(SKIPS, SKIPS), genotype(normal, reduce)
    expected = {"edges": 7 / 8, "operations": 5 / 8}
    assert agreement(first, second) == agreement(second, first) == expected


def test_the_same_edge_of_another_cell_or_node_does_not_count() -> None:
    pools = tuple(("max_pool_3x3", source) for _, source in SKIPS)
    assert agreement(genotype(SKIPS, pools), genotype(pools, SKIPS))["operations"] == 0
    moved = (("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 1), ("skip_connect", 0))
    assert agreement(genotype(SKIPS, SKIPS), genotype(moved, SKIPS))["edges"] == 7 / 8


def test_two_operations_on_one_edge_count_each_once() -> None:
    """Published genotypes may feed a node twice from one state."""
    twice = (("skip_connect", 0), ("max_pool_3x3", 0), *SKIPS[2:])
    found = agreement(genotype(SKIPS, SKIPS), genotype(twice, SKIPS))
    assert found == {"edges": 7 / 8, "operations": 7 / 8}


def test_cells_of_different_sizes_are_refused() -> None:
    with pytest.raises(SettingsError, match="normal cells have 2 and 1 nodes"):
        agreement(genotype(SKIPS, SKIPS), genotype(SKIPS[:2], SKIPS))


def architecture(*rows: list[float]) -> Architecture:
    """One node, so two edges a cell, with these mixtures."""
    made = Architecture(1, ("none", "skip_connect")).double()
    with torch.no_grad():
        made.normal.copy_(torch.tensor(rows[:2], dtype=torch.float64).log())
        made.reduce.copy_(torch.tensor(rows[2:], dtype=torch.float64).log())
    return made


def test_total_variation_is_the_mean_over_edges() -> None:
    even = architecture([0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5])
    other = architecture([0.5, 0.5], [0.7, 0.3], [0.1, 0.9], [0.5, 0.5])
    # a logarithm and a softmax of each number, 8 of these in the mean, some of which cancel
    exact(total_variation(even, other), (0.2 + 0.4) / 4, rounding(20, condition=4))
    assert total_variation(other, even) == total_variation(even, other)
    assert total_variation(even, even) == 0
    apart = architecture([1.0, 1e-9], [1.0, 1e-9], [1e-9, 1.0], [1.0, 1e-9])
    opposite = architecture([1e-9, 1.0], [1e-9, 1.0], [1.0, 1e-9], [1e-9, 1.0])
    exact(total_variation(apart, opposite), (1 - 1e-9) / (1 + 1e-9), rounding(20))


def test_architectures_of_different_spaces_are_refused() -> None:
    with pytest.raises(SettingsError, match="total_variation.*: 1 nodes"):
        total_variation(architecture(*[[0.5, 0.5]] * 4), Architecture(2))

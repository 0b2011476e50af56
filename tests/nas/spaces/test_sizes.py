"""The search spaces at the sizes that were published."""

from __future__ import annotations

import pytest
from nas.space_cases import second, third

from mlopt.nas import DARTS, PCDARTS, PDARTS, DARTSMinus, count_parameters


# With a hundred classes, only the classifiers differ: PC-DARTS' for ImageNet is one of them.
@pytest.mark.parametrize(
    ("space", "classes", "parameters", "tensors", "reported", "architecture"),
    [
        (DARTS(), 10, 1_930_618, 1399, 1_930_618, 224),
        pytest.param(DARTS(), 100, 1_953_748, 1399, 1_953_748, 224, marks=pytest.mark.slow),
        (PCDARTS(), 10, 299_578, 1399, 299_578, 252),
        pytest.param(PCDARTS(), 100, 322_708, 1399, 322_708, 252, marks=pytest.mark.slow),
        (PCDARTS(form="imagenet"), 1000, 956_512, 1406, 956_512, 252),
        (PDARTS(), 10, 1_275_834, 889, 1_275_834, 224),
        pytest.param(PDARTS(), 100, 1_298_964, 889, 1_298_964, 224, marks=pytest.mark.slow),
        (second(), 10, 2_136_474, 1601, 2_136_474, 140),
        (third(), 10, 1_861_402, 1501, 1_861_402, 84),
        (DARTSMinus(), 10, 1_971_578, 1431, 1_930_618, 224),
        pytest.param(DARTSMinus(), 100, 1_994_708, 1431, 1_953_748, 224, marks=pytest.mark.slow),
        (DARTSMinus(auxiliary="conv"), 10, 2_152_826, 1527, 1_930_618, 224),
    ],
)
def test_published_size(space, classes, parameters, tensors, reported, architecture):
    network = space.supernet(classes)
    sizes = [p.numel() for p in network.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)
    assert count_parameters(network) == reported
    assert sum(p.numel() for p in space.architecture().parameters()) == architecture


def test_sizes_of_the_cells_with_partial_channels():
    cells = PCDARTS().supernet(10).cells
    sizes = [sum(p.numel() for p in cell.parameters()) for cell in cells]
    assert sizes == [8_592, 8_848, 21_408, 22_944, 24_992, 62_784, 68_928, 77_120]

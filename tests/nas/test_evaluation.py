"""Evaluation networks: published sizes, image sizes, heads, drop path."""

from __future__ import annotations

import math

import pytest
import torch
from compare import exact, near, rounding
from grids import thinned
from torch import nn

from mlopt._errors import SettingsError
from mlopt.nas import (
    GENOTYPES,
    EvaluationNetwork,
    ImageNetNetwork,
    count_parameters,
    multiply_adds,
)
from mlopt.nas.cell_network import AuxiliaryHead, drop_samples
from mlopt.nas.operations import OPERATIONS, FactorizedReduce, make_operation

# for 10 classes: parameters without and with the auxiliary head; the same for 100 classes; tensors;
# multiply-adds for 10 classes
CIFAR = {
    "NASNet": (3_830_950, 4_288_944, 3_895_840, 4_423_044, 935, 603_452_448),
    "AmoebaNet": (3_145_078, 3_603_072, 3_184_048, 3_711_252, 783, 488_931_552),
    "DARTS_V1": (3_169_414, 3_645_840, 3_221_344, 3_766_980, 855, 500_987_520),
    "DARTS_V2": (3_349_342, 3_825_768, 3_401_272, 3_946_908, 927, 528_359_040),
    "PC_DARTS_cifar": (3_634_678, 4_111_104, 3_686_608, 4_232_244, 967, 556_670_592),
    "PC_DARTS_image": (3_721_510, 4_197_936, 3_773_440, 4_319_076, 1023, 570_466_944),
    "PDARTS": (3_433_798, 3_910_224, 3_485_728, 4_031_364, 919, 532_174_464),
    "DARTS_minus_cifar10_s0_0": (3_454_318, 3_930_744, 3_506_248, 4_051_884, 943, 546_551_424),
}
# parameters for 10 and 100 classes without the auxiliary head, of those with few convolutions
SMALLER = {
    "DARTS_CIFAR100_1ST": (1_729_990, 1_781_920),
    "SGL_DARTS_CIFAR100_1ST": (None, 2_199_880),
}
# parameters without the auxiliary head, with it, with its second normalisation; multiply-adds
IMAGENET = {
    "DARTS_V1": (4_510_432, 5_771_208, 5_772_744, 505_864_704),
    "DARTS_V2": (4_718_752, 5_979_528, 5_981_064, 529_911_552),
    "PC_DARTS_cifar": (5_270_560, 6_531_336, 6_532_872, 571_137_408),
    "PC_DARTS_image": (5_342_464, 6_603_240, 6_604_776, 581_627_328),
    "PDARTS": (4_944_352, 6_205_128, 6_206_664, 542_819_328),
}


def all_parameters(network):
    return sum(p.numel() for p in network.parameters())


def unmade(kind, *args, **kwargs):
    """A network of shapes alone."""
    with torch.device("meta"):
        return kind(*args, **kwargs)


def mostly_slow(names, *fast):
    """To make a whole network, or to follow its shapes, takes a second: few do it every time."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", CIFAR)
def test_published_size(name):
    network = unmade(EvaluationNetwork, GENOTYPES[name])
    assert (count_parameters(network), all_parameters(network)) == CIFAR[name][:2]
    assert len(list(network.parameters())) == CIFAR[name][4]


@pytest.mark.parametrize("name", mostly_slow(CIFAR, "DARTS_V2"))
def test_published_size_with_more_classes_and_without_the_head(name):
    network = unmade(EvaluationNetwork, GENOTYPES[name], classes=100)
    assert (count_parameters(network), all_parameters(network)) == CIFAR[name][2:4]
    bare = unmade(EvaluationNetwork, GENOTYPES[name], auxiliary=False)
    assert all_parameters(bare) == CIFAR[name][0]


@pytest.mark.slow  # the example of multiply_adds is one of them
@pytest.mark.parametrize("name", CIFAR)
def test_published_multiply_adds(name):
    bare = EvaluationNetwork(GENOTYPES[name], auxiliary=False)
    assert multiply_adds(bare, (3, 32, 32)) == CIFAR[name][5]
    assert bare.training


@pytest.mark.parametrize("name", SMALLER)
def test_published_size_of_the_smaller_ones(name):
    for classes, size in zip((10, 100), SMALLER[name], strict=True):
        network = unmade(EvaluationNetwork, GENOTYPES[name], classes=classes, auxiliary=False)
        assert size in (None, all_parameters(network))


@pytest.mark.parametrize("name", IMAGENET)
def test_published_size_on_imagenet(name):
    normed = unmade(ImageNetNetwork, GENOTYPES[name], auxiliary_norm=True)
    assert (count_parameters(normed), all_parameters(normed)) == IMAGENET[name][:3:2]


@pytest.mark.parametrize("name", mostly_slow(IMAGENET, "PDARTS"))
def test_published_size_on_imagenet_with_other_heads(name):
    network = unmade(ImageNetNetwork, GENOTYPES[name])
    bare = unmade(ImageNetNetwork, GENOTYPES[name], auxiliary=False, auxiliary_norm=True)
    assert (all_parameters(bare), all_parameters(network)) == IMAGENET[name][:2]


@pytest.mark.parametrize("name", mostly_slow(IMAGENET, "PC_DARTS_image"))
def test_published_multiply_adds_on_imagenet(name):
    network = ImageNetNetwork(GENOTYPES[name])
    assert multiply_adds(network, (3, 224, 224)) == IMAGENET[name][3]


@pytest.mark.parametrize("name", GENOTYPES)
def test_every_published_genotype_makes_a_network_of_large_images(name):
    network = ImageNetNetwork(GENOTYPES[name], 2, 3, 5, auxiliary=False)
    assert network(torch.zeros(2, 3, 32, 32))[0].shape == (2, 5)


def test_multiply_adds_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 7),
    ).double()  # fmt: skip
    before = [tensor.clone() for tensor in layers.state_dict().values()]
    by_hand = 6 * 6 * 8 * (3 * 9) + 6 * 6 * 8 * (2 * 25) + 72 * 7
    assert multiply_adds(layers, (3, 12, 12)) == by_hand
    assert layers.training
    after = layers.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert multiply_adds(layers.to("meta"), (3, 12, 12)) == by_hand


def test_stem_of_large_images():
    """Two feature maps, of a quarter and an eighth; the first cell reduces the older one."""
    network = ImageNetNetwork(GENOTYPES["DARTS_V2"], 4, 3, 5, auxiliary=False).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    conv1, norm1, conv2, norm2 = (network.stem0[k] for k in (0, 1, 3, 4))
    conv3, norm3 = network.stem1[1], network.stem1[2]

    def convolve(x, conv):
        return nn.functional.conv2d(x, conv.weight, stride=2, padding=1)

    quarter = norm2(convolve(norm1(convolve(x, conv1)).relu(), conv2))
    eighth = norm3(convolve(quarter.relu(), conv3))
    assert (quarter.shape, eighth.shape) == ((2, 4, 16, 16), (2, 4, 8, 8))
    assert (conv1.out_channels, isinstance(network.cells[0].preprocess0, FactorizedReduce)) == (
        2,
        True,
    )
    states = [quarter, eighth]
    for cell in network.cells:
        states.append(cell(states[-2], states[-1], 0.0))
    assert [s.shape[1:] for s in states[2:]] == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]
    expected = network.classifier(states[-1].mean((2, 3)))
    # Three cells with four separable convolutions one after another, of two halves each: sums over
    # 25 pixels and up to 16 channels, a normalisation by what is held.
    exact(network(x)[0], expected, rounding(3 * 8 * (25 + 16 + 10), condition=10))


@pytest.mark.parametrize("norm", [False, True])
def test_auxiliary_head_of_large_images(norm):
    """Seven pixels are pooled with stride 2 to four windows of 5x5."""
    head = AuxiliaryHead(6, 5, norm).double()
    x = torch.randn(3, 6, 7, 7, dtype=torch.float64)
    windows = [x.relu()[..., i : i + 5, j : j + 5].mean((2, 3)) for i in (0, 2) for j in (0, 2)]
    pooled = torch.stack(windows, 2).view(3, 6, 2, 2)
    hidden = nn.BatchNorm2d(128).double()(head.conv1(pooled)).relu()
    hidden = head.conv2(hidden)
    if norm:
        hidden = nn.BatchNorm2d(768).double()(hidden)
    expected = head.classifier(hidden.relu().flatten(1))
    # a mean of 25, sums over 6, 512 and 768, BatchNorm of 12 values and of 3: both of these enlarge
    # what rounding did before by the ratio of an image's hidden values to their spread in the batch
    exact(head(x), expected, rounding(25 + 6 + 512 + 768 + 2 * (12 + 3), condition=10))


def test_auxiliary_head_stands_after_the_second_reduction():
    network = ImageNetNetwork(GENOTYPES["PDARTS"], 4, 4, 5)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        logits, auxiliary = network(x)
        assert logits.shape == auxiliary.shape == (2, 5)
        assert network.eval()(x)[1] is None
    assert network.auxiliary_layer == 2


def small(name="DARTS_V2", **kwargs):
    return EvaluationNetwork(GENOTYPES[name], **{"channels": 4, "layers": 3, **kwargs})


@pytest.mark.parametrize(("name", "size"), thinned(3, GENOTYPES, [8, 28, 32]))
def test_image_sizes(name, size):
    network = small(name, in_channels=1, auxiliary=size > 8)
    x = torch.randn(2, 1, size, size)
    logits, auxiliary = network(x)
    assert logits.shape == (2, 10)
    assert auxiliary is None if size == 8 else auxiliary.shape == (2, 10)
    assert network.eval()(x)[1] is None


def test_small_images_cannot_have_the_auxiliary_head():
    with pytest.raises(SettingsError, match="got 2x2.*auxiliary=False"):
        small(in_channels=1)(torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("kwargs", [{"channels": 0}, {"layers": 0}, {"drop_path": 1.0}])
def test_refuses(kwargs):
    with pytest.raises(SettingsError):
        small(**kwargs)
    with pytest.raises(SettingsError, match="^ImageNetNetwork"):
        ImageNetNetwork(GENOTYPES["DARTS_V2"], **kwargs)


def test_an_odd_width_cannot_be_halved():
    with pytest.raises(SettingsError, match="even, got 5"):
        ImageNetNetwork(GENOTYPES["DARTS_V2"], 5)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_operations_keep_channels(name, stride):
    operation = make_operation(name, 4, stride)
    assert operation(torch.randn(2, 4, 7, 8)).shape == (2, 4, -(-7 // stride), 8 // stride)


@pytest.mark.parametrize(
    ("name", "plain", "extra"),
    [
        ("skip_connect", 36, 12),
        ("sep_conv_3x3", 2 * (54 + 36), 24),
        ("sep_conv_5x5", 2 * (150 + 36), 24),
        ("sep_conv_7x7", 2 * (294 + 36), 24),
        ("dil_conv_3x3", 54 + 36, 12),
        ("dil_conv_5x5", 150 + 36, 12),
        ("conv_7x1_1x7", 14 * 36, 12),
    ],
)
def test_operation_sizes(name, plain, extra):
    for affine in (False, True):
        operation = make_operation(name, 6, 2, affine)
        assert sum(p.numel() for p in operation.parameters()) == plain + affine * extra


def test_average_pooling_does_not_count_padding():
    ones = torch.ones(1, 2, 5, 5, dtype=torch.float64)
    exact(make_operation("avg_pool_3x3", 2)(ones), ones, rounding(10))  # a sum of nine, a quotient


def test_unknown_operation():
    with pytest.raises(SettingsError, match="'conv'.*max_pool_3x3"):
        make_operation("conv", 4)


def test_factorized_reduce_refuses_odd_channels():
    with pytest.raises(SettingsError, match="even"):
        FactorizedReduce(4, 3)


def test_drop_path_zeroes_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3, 1, dtype=torch.float64)
    dropped = drop_samples(x, 0.2)
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert per_sample.unique().tolist() == [0.0, 1 / 0.8]
    deviation = 1.25 * math.sqrt(0.2 * 0.8 / 4000)
    near(dropped.mean(), 1, 5 * deviation, why="five standard errors of 4000 samples")


def test_drop_path_acts_in_training_only_and_not_on_identities():
    network = small(auxiliary=False, drop_path=0.5)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(network(x)[0], network(x)[0])
    network.eval()
    assert torch.equal(network(x)[0], network(x)[0])
    network.train()
    network.drop_path = 0.0
    assert torch.equal(network(x)[0], network(x)[0])
    # node 3 = sep + sep, node 4 = sep + identity: with every branch dropped the identity stays
    cell = network.cells[0]
    network.drop_path = 1 - 1e-9
    state = cell.preprocess0(network.stem(x))
    output = cell(network.stem(x), network.stem(x), network.drop_path)
    assert torch.equal(output[:, 8:12], state)
    assert not output[:, :8].any()

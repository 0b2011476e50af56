"""Evaluation networks: published sizes, image sizes, drop path, training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlopt._errors import DataError, NonFiniteError, SettingsError
from mlopt.nas import GENOTYPES, EvaluationNetwork, count_parameters, evaluate, retrain
from mlopt.nas.evaluation import _drop_path
from mlopt.nas.operations import OPERATIONS, FactorizedReduce, make_operation

# name: parameters for 10 classes without and with the auxiliary head, for 100 classes, tensors
PUBLISHED = {
    "NASNet": (3_830_950, 4_288_944, 3_895_840, 4_423_044, 935),
    "AmoebaNet": (3_145_078, 3_603_072, 3_184_048, 3_711_252, 783),
    "DARTS_V1": (3_169_414, 3_645_840, 3_221_344, 3_766_980, 855),
    "DARTS_V2": (3_349_342, 3_825_768, 3_401_272, 3_946_908, 927),
    "PC_DARTS_cifar": (3_634_678, 4_111_104, 3_686_608, 4_232_244, 967),
    "PC_DARTS_image": (3_721_510, 4_197_936, 3_773_440, 4_319_076, 1023),
    "PDARTS": (3_433_798, 3_910_224, 3_485_728, 4_031_364, 919),
}


@pytest.mark.parametrize("name", GENOTYPES)
def test_published_size(name):
    sizes = []
    for classes in (10, 100):
        network = EvaluationNetwork(GENOTYPES[name], classes=classes)
        sizes += [count_parameters(network), sum(p.numel() for p in network.parameters())]
    assert (*sizes, len(list(network.parameters()))) == PUBLISHED[name]
    bare = EvaluationNetwork(GENOTYPES[name], auxiliary=False)
    assert sum(p.numel() for p in bare.parameters()) == PUBLISHED[name][0]


def small(name="DARTS_V2", **kwargs):
    return EvaluationNetwork(GENOTYPES[name], **{"channels": 4, "layers": 3, **kwargs})


@pytest.mark.parametrize("name", GENOTYPES)
@pytest.mark.parametrize("size", [8, 28, 32])
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
    ones = torch.ones(1, 2, 5, 5)
    torch.testing.assert_close(make_operation("avg_pool_3x3", 2)(ones), ones)


def test_unknown_operation():
    with pytest.raises(SettingsError, match="'conv'.*max_pool_3x3"):
        make_operation("conv", 4)


def test_factorized_reduce_refuses_odd_channels():
    with pytest.raises(SettingsError, match="even"):
        FactorizedReduce(4, 3)


def test_drop_path_zeroes_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3, 1)
    dropped = _drop_path(x, 0.2)
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    torch.testing.assert_close(per_sample.unique(), torch.tensor([0.0, 1.25]))
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)


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
    torch.testing.assert_close(output[:, 8:12], state)
    assert not output[:, :8].any()


def loader(count=48, classes=2, size=8, batch=16):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    images = 0.3 * torch.randn(count, 1, size, size, generator=generator)
    images += labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=True)


def learner(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small("DARTS_V1", classes=2, in_channels=1, auxiliary=False)


def test_retrain_learns_and_reports():
    network, seen = learner(), []
    before = torch.random.get_rng_state()
    history = retrain(
        network,
        loader(),
        epochs=4,
        lr=0.02,
        min_lr=0.01,
        on_epoch=seen.append,
        progress=False,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert history == seen
    assert [m["epoch"] for m in history] == [0, 1, 2, 3]
    assert [m["lr"] for m in history][::2] == pytest.approx([0.02, 0.015])
    assert history[-1]["loss"] < history[0]["loss"]
    result = evaluate(network, loader())
    assert result["total"] == 48
    assert result["error"] == pytest.approx(100 * (1 - result["correct"] / 48))
    assert result["error"] < 10
    assert network.training


def test_retrain_is_reproducible_and_shows_progress(capsys):
    runs = []
    for _ in range(2):
        torch.rand(3)
        runs.append(retrain(learner(), loader(), epochs=3, drop_path=0.3, seed=5))
    assert runs[0] == runs[1]
    assert [m["drop_path"] for m in runs[0]] == pytest.approx([0, 0.1, 0.2])
    other = retrain(learner(), loader(), epochs=3, drop_path=0.3, seed=6, progress=False)
    assert other != runs[0]
    assert "loss=" in capsys.readouterr().err


def test_first_step_is_clipped_sgd_on_the_weighted_sum():
    network = small(classes=2, in_channels=1)
    start = [p.detach().clone() for p in network.parameters()]
    images = torch.randn(4, 1, 28, 28)
    labels = torch.tensor([0, 1, 1, 0])
    logits, auxiliary = network(images)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss = criterion(logits, labels) + 0.4 * criterion(auxiliary, labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 0.1
    retrain(
        network,
        [(images, labels)],  # type: ignore[arg-type]
        epochs=1,
        lr=0.5,
        clip=0.1,
        weight_decay=0.0,
        label_smoothing=0.1,
        progress=False,
    )
    for p, s, g in zip(network.parameters(), start, gradients, strict=True):
        torch.testing.assert_close(p.detach(), s - 0.5 * g * 0.1 / norm, rtol=1e-3, atol=1e-5)


def test_retrain_stops_at_a_non_finite_loss():
    network = learner()
    start = [p.detach().clone() for p in network.parameters()]
    data = [(torch.full((2, 1, 8, 8), torch.nan), torch.tensor([0, 1]))]
    with pytest.raises(NonFiniteError, match="step 0") as error:
        retrain(network, data, epochs=1, progress=False)  # type: ignore[arg-type]
    assert (error.value.problem, error.value.step) == ("retrain", 0)
    assert all(torch.equal(p, s) for p, s in zip(network.parameters(), start, strict=True))


def test_retrain_refuses_bad_settings():
    with pytest.raises(SettingsError, match="epochs"):
        retrain(learner(), loader(), epochs=0)
    with pytest.raises(SettingsError, match="drop_path"):
        retrain(learner(), loader(), epochs=1, drop_path=1.0)
    with pytest.raises(DataError, match="no batch"):
        retrain(learner(), [], epochs=1, progress=False)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no batch"):
        evaluate(learner(), [])

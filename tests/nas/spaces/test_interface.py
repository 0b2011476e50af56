"""What all search spaces have in common, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from compare import exact, near, rounding
from nas.space_cases import FIVE, SMALL, drawn, few, ragged, second

from mlopt._errors import SettingsError
from mlopt.nas import DARTS, PCDARTS, PDARTS, SPACES, Architecture, DARTSMinus


def test_spaces_by_name():
    kinds = {"darts": DARTS, "p-darts": PDARTS, "pc-darts": PCDARTS, "darts-minus": DARTSMinus}
    assert kinds == SPACES
    for kind in kinds.values():
        space = kind(channels=4, layers=2, nodes=1)
        a = space.architecture(torch.Generator().manual_seed(5))
        again = space.architecture(torch.Generator().manual_seed(5))
        assert all(map(torch.equal, a.parameters(), again.parameters()))
        assert space.supernet(7, 2)(torch.randn(2, 2, 8, 8), a()).shape == (2, 7)


def test_weights_of_edges():
    a = drawn(PCDARTS(nodes=3).architecture())
    assert [tuple(p.shape) for p in a.parameters()] == [(9, 8), (9, 8), (9,), (9,)]
    names = [name for name, _ in a.named_parameters()]
    assert names == ["normal", "reduce", "normal_edges", "reduce_edges"]
    w = a()
    bound = rounding(20)  # softmax over at most eight: exponentials, their sum, a quotient
    exact(w.reduce, a.reduce.softmax(-1), bound)
    exact(w.reduce_edges[2:5], a.reduce_edges[2:5].softmax(0), bound)
    exact(w.normal_edges[5:], a.normal_edges[5:].softmax(0), bound)
    edges = PCDARTS().architecture(torch.Generator().manual_seed(0)).normal_edges
    near(edges.std(), 1e-3, 4 / (2 * len(edges)) ** 0.5, why="four deviations of a deviation")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PCDARTS(channels=6), "PCDARTS: partial must divide channels=6, got 4"),
        (lambda: PCDARTS(partial=0), "partial must be.* at least 1"),
        (lambda: DARTSMinus(decay="fast"), "decay='fast'.* one of .*'slow-cosine'"),
        (lambda: DARTSMinus(auxiliary="pool"), "auxiliary='pool'.* one of "),
        (lambda: PDARTS(layers=0), "PDARTS.layers=0.*at least 1"),
        (lambda: PDARTS(add_layers=(0, 6)), "one number for each stage"),
        (lambda: PDARTS(drop=(3, 2, 1)), "add up to 7"),
        (lambda: PDARTS(add_width=(0, -1, 0)), "at least 0"),
        (lambda: PDARTS(skip_dropout=(0, 0, 1.0)), r"skip_dropout.* in \[0, 1\)"),
        (lambda: PDARTS(most_skips=-1), "most_skips must be.* at least 0, or None"),
        (lambda: PDARTS(stage=3), "stage must be 0 to 2, got 3"),
        (lambda: PDARTS(stage=1), "in stage 1 each of the 14 edges has 5 distinct"),
        (lambda: PDARTS(stage=1, kept=second().kept, nodes=3), "each of the 9 edges"),
        (lambda: second(FIVE[::-1]), "in the order of PRIMITIVES"),
        (lambda: second((*FIVE[:4], "noise")), "distinct operations"),
        (lambda: DARTS(form="mnist"), "form='mnist'.* one of 'cifar', 'imagenet'"),
    ],
)
def test_refuses_settings(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_refuses_the_architecture_of_another_space_or_stage():
    plain, edges = DARTS(nodes=2).architecture(), PCDARTS(nodes=2).architecture()
    for space in (DARTS(nodes=2), DARTSMinus(nodes=2), ragged(), few()):
        with pytest.raises(
            SettingsError, match=r"one of class \w+ with 2 nodes, got EdgeArchitecture with 2"
        ):
            space.derive(edges)
    with pytest.raises(SettingsError, match="class EdgeArchitecture with 2 nodes, got Arch"):
        PCDARTS(nodes=2).derive(plain)
    with pytest.raises(SettingsError, match="with 2 nodes, got Architecture with 4"):
        DARTS(nodes=2).derive(Architecture())
    with pytest.raises(SettingsError, match="other operations than stage 1"):
        ragged().following(few().architecture())
    with pytest.raises(SettingsError, match="this is stage 1 of 3"):
        ragged().derive(ragged().architecture())


@pytest.mark.parametrize(
    ("epoch", "epochs", "warmup"), [(-1, 5, 0), (5, 5, 0), (0, 0, 0), (0, 2, -1)]
)
def test_refuses_an_epoch_that_is_none(epoch, epochs, warmup):
    network = DARTS(channels=2, layers=1, nodes=1).supernet(2)
    with pytest.raises(
        SettingsError, match=r"Supernet.begin_epoch.* (epoch|epochs|warmup) must be"
    ):
        network.begin_epoch(epoch, epochs, warmup)


def test_refuses_weights_of_other_edges():
    network, a = PCDARTS(**SMALL).supernet(5), PCDARTS(**SMALL).architecture()
    with pytest.raises(SettingsError, match=r"weights of edges \(5,\).*and \(14,\)"):
        network(torch.randn(1, 3, 8, 8), a()._replace(normal_edges=torch.ones(14)))

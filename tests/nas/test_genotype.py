"""Genotypes: validation, JSON, derivation, drawing."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from nas.reference import fill_architecture

from mlopt._errors import SettingsError
from mlopt.nas import GENOTYPES, PRIMITIVES, Architecture, Genotype, derive, draw
from mlopt.nas.genotypes import _cell


@pytest.mark.parametrize("name", GENOTYPES)
def test_json_round_trip(name):
    genotype = GENOTYPES[name]
    again = Genotype.from_json(genotype.to_json())
    assert again == genotype
    assert hash(again) == hash(genotype)


def test_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GENOTYPES["DARTS_V2"].normal = ()  # type: ignore[misc]


def test_text():
    lines = str(GENOTYPES["DARTS_V2"]).splitlines()
    assert lines[0] == "normal cell, output = 2, 3, 4, 5"
    assert lines[4] == "  5 = skip_connect(0) + dil_conv_3x3(2)"
    assert len(lines) == 10


def changed(**fields):
    return json.dumps({**json.loads(GENOTYPES["DARTS_V2"].to_json()), **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "object with the fields.*got list"),
        ('{"normal": []}', "object with the fields"),
        (changed(extra=1), "extra"),
        (changed(normal="s3"), "normal must list two"),
        (changed(normal=[]), "normal must list two"),
        (changed(normal=[["skip_connect", 0]]), "two .* pairs for each node"),
        (changed(normal=[["skip_connect", 0], "ab"]), r"normal\[1\] must be a pair"),
        (changed(normal=[["skip_connect", 0], 3]), r"normal\[1\] must be a pair"),
        (changed(reduce=[["skip", 0], ["none", 1]]), r"reduce\[0\] names no operation: 'skip'"),
        (changed(normal=[["none", 0], ["none", 1]]), "names no operation: 'none'"),
        (changed(normal=[[["x"], 0], ["none", 1]]), "names no operation"),
        (changed(normal=[["skip_connect", 2], ["skip_connect", 1]]), "node 2.*0 to 1, got 2"),
        (changed(normal=[["skip_connect", -1], ["skip_connect", 1]]), "got -1"),
        (changed(normal=[["skip_connect", True], ["skip_connect", 1]]), "got True"),
        (changed(normal=[["skip_connect", 0.0], ["skip_connect", 1]]), r"got 0\.0"),
        (changed(normal_concat=[2, 6]), "distinct nodes from 2 to 5"),
        (changed(normal_concat=[1, 2]), "distinct nodes"),
        (changed(reduce_concat=[2, 2]), "distinct nodes"),
        (changed(reduce_concat=[]), "distinct nodes"),
        (changed(reduce_concat="2345"), "distinct nodes"),
    ],
)
def test_malformed(text, message):
    with pytest.raises(SettingsError, match=message):
        Genotype.from_json(text)


def test_derivation_of_the_reference_point():
    genotype = derive(fill_architecture(Architecture()))
    assert genotype.normal == _cell("s5@1 d5@0 | sk@0 ap@1 | sk@1 s5@0 | s3@0 sk@4")
    assert genotype.reduce == _cell("s3@1 s5@0 | s5@2 ap@0 | sk@0 s3@3 | s3@3 ap@0")
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)


def test_derivation_breaks_ties_downwards():
    a = Architecture()
    with torch.no_grad():
        a.normal.zero_()
        a.reduce.zero_()
        a.reduce[:, 4] = 1
        a.reduce[4, 4] = 2  # node 3, from state 2
    genotype = derive(a)
    assert genotype.normal == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 4
    assert genotype.reduce[2:4] == (("sep_conv_3x3", 2), ("sep_conv_3x3", 0))


def test_none_counts_through_the_normalisation_only():
    a = Architecture(nodes=2)
    with torch.no_grad():
        a.normal.zero_()
        a.normal[2:, 0] = torch.tensor([0.0, 9.0, 0.0])  # node 3: state 1 is nearly all 'none'
        a.normal[2:, 5] = 1
    assert derive(a).normal[2:] == (("sep_conv_5x5", 0), ("sep_conv_5x5", 2))


def test_derivation_refuses_an_operation_without_a_network():
    with pytest.raises(SettingsError, match="names no operation: 'noise'"):
        derive(Architecture(operations=["none", "noise"]))


def test_architecture():
    generator = torch.Generator().manual_seed(0)
    a = Architecture(3, generator=generator)
    assert a.operations == PRIMITIVES
    assert a.normal.shape == a.reduce.shape == (9, 8)
    assert 5e-4 < a.normal.std() < 2e-3
    assert not torch.equal(a.normal, a.reduce)
    assert torch.equal(a.normal, Architecture(3, generator=torch.Generator().manual_seed(0)).normal)
    weights = a()
    torch.testing.assert_close(weights.reduce.sum(1), torch.ones(9))
    with torch.no_grad():
        a.normal.zero_()
        a.reduce.fill_(-1e4)[:, 2] = 0
    assert a.entropy() == pytest.approx({"normal": torch.tensor(8.0).log().item(), "reduce": 0})


@pytest.mark.parametrize("kwargs", [{"nodes": 0}, {"operations": ()}, {"operations": ("a", "a")}])
def test_architecture_refuses(kwargs):
    with pytest.raises(SettingsError):
        Architecture(**kwargs)


@pytest.mark.parametrize(("name", "suffix"), [("DARTS_V2", ".png"), ("AmoebaNet", ".svg")])
def test_draw(tmp_path, name, suffix):
    path = tmp_path / f"cells{suffix}"
    draw(GENOTYPES[name], path, title=name)
    head = path.read_bytes()[:5]
    assert head == (b"\x89PNG\r" if suffix == ".png" else b"<?xml")


def test_draw_refuses_other_formats(tmp_path):
    with pytest.raises(SettingsError, match=r"\.png or \.svg"):
        draw(GENOTYPES["DARTS_V2"], tmp_path / "cells.gif")


def test_draw_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install mlopt\[nas\]"):
        draw(GENOTYPES["DARTS_V2"], tmp_path / "cells.png")

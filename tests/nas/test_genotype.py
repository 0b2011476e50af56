"""Genotypes: validation, JSON, names and files, spaces, drawing."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from compare import exact, near, rounding

from mlopt._errors import SettingsError
from mlopt.nas import GENOTYPES, PRIMITIVES, Architecture, Genotype, draw, load_genotype


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


# Published genotypes and files.


def test_load_genotype(tmp_path):
    found = GENOTYPES["PDARTS"]
    assert load_genotype("PDARTS") is found
    path = tmp_path / "genotype.json"
    path.write_text(found.to_json())
    assert load_genotype(path) == load_genotype(str(path)) == load_genotype(tmp_path) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DARTS_V3", "'DARTS_V3' is no published genotype.*Did you mean DARTS_V[12], DARTS_V[12]"),
        ("pdarts", r"Did you mean PDARTS"),
        ("zzz", r"no file zzz\. Published are: NASNet, .*PDARTS"),
        ("runs/here/genotype.json", r"no file runs/here/genotype\.json"),
        ("a\0b", "cannot be read"),
    ],
)
def test_unknown_genotype(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=message):
        load_genotype(name)


def test_a_file_without_a_genotype(tmp_path):
    path = tmp_path / "cells.json"
    path.write_text(changed(normal=[["noise", 0], ["none", 1]]))
    with pytest.raises(SettingsError, match=r"cells\.json describes no genotype.*'noise'"):
        load_genotype(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match=r"cells\.json cannot be read"):
        load_genotype(path)
    with pytest.raises(SettingsError, match=r"no file .*genotype\.json"):
        load_genotype(tmp_path)  # a folder without one


# Search spaces.


@pytest.mark.parametrize("name", sorted(set(GENOTYPES) - {"NASNet", "AmoebaNet"}))
def test_belongs_to_the_space(name):
    GENOTYPES[name].check()
    with pytest.raises(SettingsError, match="normal cell has 4 nodes, the space's have nodes=2"):
        GENOTYPES[name].check(nodes=2)


@pytest.mark.parametrize(
    ("name", "operations", "message"),
    [
        ("NASNet", PRIMITIVES, "reduce cell has 'sep_conv_7x7' at node 2, on state 0"),
        ("AmoebaNet", PRIMITIVES, "reduce cell has 'sep_conv_7x7' at node 3, on state 2"),
        ("PDARTS", PRIMITIVES[:-1], "normal cell has 'dil_conv_5x5' at node 5, on state 4"),
        ("DARTS_V2", ("none", "sep_conv_3x3"), "'skip_connect'.*are: none, sep_conv_3x3"),
    ],
)
def test_the_operation_that_is_not_in_the_space_is_named(name, operations, message):
    with pytest.raises(SettingsError, match=message):
        GENOTYPES[name].check(len(GENOTYPES[name].normal) // 2, operations)


# Architectures.


def test_architecture():
    generator = torch.Generator().manual_seed(0)
    a = Architecture(3, generator=generator)
    assert a.operations == PRIMITIVES
    assert a.normal.shape == a.reduce.shape == (9, 8)
    near(a.normal.std(), 1e-3, 4 / (2 * 72) ** 0.5, why="four deviations of a deviation")
    assert not torch.equal(a.normal, a.reduce)
    assert torch.equal(a.normal, Architecture(3, generator=torch.Generator().manual_seed(0)).normal)
    a.double()
    # exponentials of eight numbers, their sum, quotients, and the sum of these
    exact(a().reduce.sum(1), torch.ones(9), rounding(20))
    with torch.no_grad():
        a.normal.zero_()
        a.reduce.fill_(-1e4)[:, 2] = 0
    # logarithms and exponentials of eight numbers, their products, a sum, a mean over nine edges
    exact(a.entropy(), {"normal": math.log(8), "reduce": 0}, rounding(40))


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


def test_draw_names_the_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        draw(GENOTYPES["DARTS_V2"], tmp_path / "cells.png")

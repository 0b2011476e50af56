"""Genotypes as the authors' repositories print them: read as they stand, and never run."""

from __future__ import annotations

import pytest

from mlopt._errors import SettingsError
from mlopt.nas import GENOTYPES, Genotype, load_genotype


def printed(genotype: Genotype, concat=lambda states: f"range({states[0]}, {states[-1] + 1})"):
    """As `print` shows the namedtuple of DARTS; its concat is a range or a list."""
    return (
        f"Genotype(normal={list(genotype.normal)!r}, "
        f"normal_concat={concat(genotype.normal_concat)}, "
        f"reduce={list(genotype.reduce)!r}, reduce_concat={concat(genotype.reduce_concat)})"
    )


def nested(genotype: Genotype) -> str:
    """With the two pairs of each node in a list."""
    cells = {
        kind: [list(pairs) for pairs in zip(getattr(genotype, kind)[::2],
                                            getattr(genotype, kind)[1::2], strict=True)]
        for kind in ("normal", "reduce")
    }  # fmt: skip
    return (
        f"Genotype(normal={cells['normal']!r}, normal_concat={list(genotype.normal_concat)}, "
        f"reduce={cells['reduce']!r}, reduce_concat={list(genotype.reduce_concat)})"
    )


FORMS = {
    "printed": printed,
    "lists": lambda g: printed(g, lambda states: repr(list(states))),
    "list of a range": lambda g: printed(g, lambda s: f"list(range({s[0]}, {s[-1] + 1}, 1))"),
    "nested": nested,
    "repr": repr,
    "positional": lambda g: (
        f"Genotype({list(g.normal)}, {list(g.normal_concat)}, {list(g.reduce)},"
        f" reduce_concat={list(g.reduce_concat)})"
    ),
    "assigned": lambda g: f"# mine\nMINE = {printed(g)}\n\nSHOWN = MINE\n",
    "of a module": lambda g: f"MINE = genotypes.Genotype {printed(g)[8:]}",
    "several lines": lambda g: printed(g).replace("), (", "),\n   ("),
    "log": lambda g: (
        "2019-12-30 20:36:01,119 epoch 0 lr 2.5e-02\n"
        f"2019-12-30 20:37:55,624 genotype = {printed(GENOTYPES['PDARTS'])}\n"
        f"2019-12-30 21:37:55,624 genotype = {printed(g)}\n(train_acc 88.1)\n"
    ),
    "log without names": lambda g: (
        f"12/30 08:37:55 PM {printed(GENOTYPES['PDARTS'])}\n"
        f"12/30 09:37:55 PM {printed(g)}\n12/30 09:37:56 PM Number of skip-connect: 2\n"
    ),
    "byte order mark": lambda g: "\ufeff" + printed(g),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["DARTS_V2", "PC_DARTS_cifar", "SGL_DARTS_CIFAR100_1ST"])
def test_every_form_is_read(tmp_path, form, name):
    text = FORMS[form](GENOTYPES[name])
    (tmp_path / "found.txt").write_text(text, encoding="utf-8")
    assert load_genotype(tmp_path / "found.txt") == GENOTYPES[name]
    assert Genotype.from_text(text) == GENOTYPES[name]


@pytest.mark.parametrize("name", GENOTYPES)
def test_the_way_back_to_their_text(name):
    """What `repr` gives stands in a genotypes.py as it is, and reads as JSON does."""
    assert Genotype.from_text(repr(GENOTYPES[name])) == GENOTYPES[name]
    assert eval(repr(GENOTYPES[name]), {"Genotype": Genotype}) == GENOTYPES[name]


def test_the_constructor_takes_ranges_and_nodes():
    g = GENOTYPES["DARTS_V1"]
    nodes = [list(g.normal[i : i + 2]) for i in (0, 2, 4, 6)]
    assert Genotype(nodes, range(2, 6), g.reduce, range(2, 6)) == g  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="distinct nodes"):
        Genotype(g.normal, range(2, 10**12), g.reduce, (2,))  # type: ignore[arg-type]


G = printed(GENOTYPES["DARTS_V2"])
BAD = {
    "nothing": ("a log of something else", "no text `Genotype"),
    "empty": ("", "no text `Genotype"),
    "cut": (G[:200], "no closing bracket"),
    "no Python": ("Genotype(normal=[(])", "no closing bracket|no expression"),
    "no Python in brackets": ("Genotype(normal = = 3)", "no expression"),
    "stray backslash": (r"Genotype('\s')", "the fields"),
    "deep": (f"Genotype({'[' * 9000}{']' * 9000})", "no expression|the fields"),
    "a field less": (G.replace("reduce=", "other="), "the fields"),
    "a field twice": (f"Genotype([], {G[9:]}", "the fields|no expression"),
    "more fields": ("Genotype(1, 2, 3, 4, 5)", "the fields"),
    "unpacked": ("Genotype(**stored)", "the fields"),
    "two names": (f"A = {G}\nB = {G}", r"different names \(A, B\)"),
    "a name": (G.replace("range(2, 6)", "CONCAT"), "`CONCAT` is no literal"),
    "a call": (G.replace("range(2, 6)", "open('x', 'w')"), r"`open\('x', 'w'\)` is no literal"),
    "an import": (G.replace("range(2, 6)", "__import__('os').mkdir('x')"), "nothing is run"),
    "a lambda": (G.replace("range(2, 6)", "(lambda: [2])()"), "nothing is run"),
    "a product": (G.replace("range(2, 6)", "[2] * 10**10"), "nothing is run"),
    "arithmetic": (G.replace("range(2, 6)", "[9**9**9]"), "nothing is run"),
    "a long range": (G.replace("range(2, 6)", "range(10**3, 2)"), "nothing is run"),
    "a range without end": (G.replace("range(2, 6)", f"range({10**12})"), "no range of a cell"),
    "a range beyond all": (G.replace("range(2, 6)", f"range({10**30})"), "no range of a cell"),
    "a step of nothing": (G.replace("range(2, 6)", "range(2, 6, 0)"), "no range of a cell"),
    "an unknown operation": (G.replace("dil_conv_3x3", "noise"), "names no operation: 'noise'"),
    "another state": (G.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 7)"), "feeds node 5"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_what_is_no_genotype_is_refused_and_not_run(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found.txt").write_text(text)
    with pytest.raises(SettingsError, match=f"found.txt describes no genotype.*({said})"):
        load_genotype("found.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["found.txt"]

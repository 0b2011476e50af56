"""Every example runs as a program, small, and ends with its table."""

import importlib
from functools import partial

import pytest

import mlopt

SMALL = {
    "three_levels": ["--size", "2"],
    "duopoly": ["--steps", "2"],
    "logistic_hpo": ["--steps", "1"],
    "hyper_cleaning": ["--steps", "1"],
    "reweighting": ["--seeds", "1", "--epochs", "1"],
    "maml": ["--steps", "1", "--tasks", "2"],
    "imaml": ["--steps", "1", "--tasks", "2", "--rounds", "10"],
}
#: Functions that a program calls with many steps or tasks, here with few.
FEWER = {
    "hyper_cleaning": ("plain", {"steps": 5}),
    "maml": ("adapted_losses", {"tasks": 2}),
    "imaml": ("adapted_loss", {"tasks": 2}),
}


@pytest.mark.parametrize("name", SMALL)
def test_it_ends_with_a_table(name, monkeypatch, capsys):
    example = importlib.import_module(f"examples.gallery.{name}")
    monkeypatch.setattr("sys.argv", [f"{name}.py", *SMALL[name]])
    if name in FEWER:
        function, fewer = FEWER[name]
        monkeypatch.setattr(example, function, partial(getattr(example, function), **fewer))
    if name == "three_levels":
        monkeypatch.setitem(example.METHODS, "Unrolled(30)", mlopt.Unrolled(3))
    example.main()
    assert "----" in capsys.readouterr().out


@pytest.mark.parametrize("name", SMALL)
def test_its_page_is_in_the_index(name, request):
    pages = request.config.rootpath / "docs" / "gallery"
    assert f"({name}.md)" in (pages / "index.md").read_text()
    assert f"python examples/gallery/{name}.py" in (pages / f"{name}.md").read_text()

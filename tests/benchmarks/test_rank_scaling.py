"""What goes between ranks, as printed: of the examples, of a large model, of an engine of yours."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mlopt
from mlopt.data import ImageData

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples")]

import scaling  # noqa: E402
import scaling_graphs  # noqa: E402
import scaling_model  # noqa: E402

from support.data import search_loaders  # noqa: E402
from support.pipeline.proof import first_engine  # noqa: E402
from support.settings import parse  # noqa: E402

TINY = ["--channels", "2", "--cells", "3", "--nodes", "1", "--batch-size", "4"]


def example(name: str, order: str) -> mlopt.Engine:
    """The engine of an example, tiny, with all levels at work."""
    s = parse(None, [*TINY, "--order", order, "--product", "central"], example=name)
    s = dataclasses.replace(s, generator_epochs=0, pretrain=0, warmup=0, generator_width=4)
    return first_engine(importlib.import_module(name).scheme.of(s), s)


def of_paper(name: str, order: str) -> mlopt.Engine:
    """The engine of an example with the networks of the paper, on two images of 8x8 pixels.

    Their parameters do not depend on the size of images; those of the generator do on its own.
    """
    options = ["--preset", "paper", "--order", order, "--batch-size", "2"]
    s = parse(None, [*options, "--unlabeled", "held-out", "--generator-size", "32"], example=name)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (400, 3, 8, 8), generator=drawn, dtype=torch.uint8)
    labels = torch.arange(400) % 10
    names = tuple(map(str, range(10)))
    thirds = (0.5, 0.5, 0.5)
    data = ImageData("cifar10", images, labels, images, labels, names, thirds, thirds)
    scheme = importlib.import_module(name).scheme.of(s)
    return scheme(
        data, *search_loaders(data, s, plain=scheme.plain, unlabeled=scheme.unlabeled), s
    ).engine


def networks(engine: mlopt.Engine) -> dict[str, nn.Module]:
    return {v.name: v.value for v in engine.graph.variables}


def compare(engine: mlopt.Engine, order: str) -> None:
    """What an engine counts is what the formulas say."""
    nets = networks(engine)
    sizes = {n: scaling.sizes(net) for n, net in nets.items()}
    held = {n: scaling.buffers(net) for n, net in nets.items()}
    method = mlopt.Frozen() if order == "first" else mlopt.OneStep(product=mlopt.Central())
    graph = scaling_graphs.lfm_cw if "g" in nets else scaling_graphs.sgl
    levels = graph(sizes, method, buffers=held)
    expected = scaling_model.staged(levels, sequential=order == "first").all
    assert engine.plan(ranks=8).traffic.per_purpose == expected


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("name", ["lfm_cw_darts", "sgl_darts"])
def test_formulas_give_what_the_examples_count(name: str, order: str) -> None:
    compare(example(name, order), order)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mlopt.CapabilityWarning")  # BatchNorm of two images
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("name", ["lfm_cw_darts", "sgl_darts"])
def test_formulas_give_what_the_papers_networks_count(name: str, order: str) -> None:
    engine = of_paper(name, order)
    paper = scaling.papers("paper")["LFM-CW" if "lfm" in name else "SGL"]
    found = {n: scaling.sizes(net) for n, net in networks(engine).items()}
    assert found == {n: scaling.sizes(net) for n, net in paper.items()}
    compare(engine, order)


@pytest.mark.parametrize("name", ["lfm_cw_darts", "sgl_darts"])
def test_what_stands_is_what_a_plan_copies(name: str) -> None:
    engine = example(name, "second")
    engine.step()  # makes the states of optimizers
    nets = networks(engine)
    more = [b for s in engine.graph.signals if s.state is not None for b in s.state.buffers()]
    more += [
        p
        for net in nets.values()
        for n, p in net.named_parameters()
        if n.startswith("trunk.classifier.")
    ]
    rest = sum(t.numel() * t.element_size() for t in more)  # of signals, and of no gradient
    assert scaling.copies(nets) + rest == engine.plan().copies


def test_the_parameters_that_are_printed_are_those_that_have_gradients() -> None:
    for own in scaling.papers("quick").values():
        for row, (name, net) in zip(scaling.counts(own), own.items(), strict=True):
            count = sum(p.numel() for p in net.parameters())
            if name == "h":  # the search network, whose classes nobody asks it for
                unused = net.get_submodule("trunk.classifier")
                count -= sum(p.numel() for p in unused.parameters())
            assert row["parameters"] == f"{count:,}"


@pytest.mark.parametrize("method", scaling.OF_WEIGHTS)
def test_the_small_model_has_the_traffic_of_the_formula(method: str) -> None:
    formula, counted = scaling.counted_small(scaling.OF_WEIGHTS[method])
    assert formula == counted


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "OF_WEIGHTS", {"central": scaling.OF_WEIGHTS["central"]})
    monkeypatch.setattr(scaling, "OPTIMIZERS", {"Adam": scaling.OPTIMIZERS["Adam"]})
    output = tmp_path / "x.md"
    assert scaling.main(["--preset", "quick", "--ranks", "4", "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    assert "LFM-CW, preset quick, 4 ranks" in text
    assert "SGL, preset quick, 4 ranks" in text
    assert "1,011,476,480 parameters" in text
    assert "no: " not in text


MINE = """
import torch, mlopt

def make_engine():
    W, A = (mlopt.Variable(torch.nn.Parameter(torch.ones(5)), n) for n in "wa")
    data = [torch.ones(4, 5)]

    @mlopt.problem(over=W, given=[A], data=data, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def low(w, a, batch):
        return ((batch * w - a) ** 2).mean()

    @mlopt.problem(over=A, given=[W], data=data, optimizer=torch.optim.SGD(A.parameters(), lr=0.1))
    def high(a, w, batch):
        return ((batch * w) ** 2).mean() + (a**2).sum()

    return mlopt.Engine([low, high], hypergrad=mlopt.OneStep())
"""


@pytest.mark.parametrize(("ranks", "said"), [(64, "between 64 ranks"), (1, "evaluations")])
def test_an_engine_of_yours(
    ranks: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "mine_of_ranks.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert scaling.main(["--engine", "mine_of_ranks:make_engine", "--ranks", str(ranks)]) == 0
    printed = capsys.readouterr().out
    assert said in printed
    assert ("NVLink" in printed) == (ranks > 1)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_figures_of_the_page_are_those_of_the_file() -> None:
    result = (ROOT / "benchmarks/results/scaling_cpu.md").read_text(encoding="utf-8")
    measured = [cells(line) for line in result.splitlines() if line.startswith("|")]
    # Of memory: what a page has of both optimizers in a row.
    adam, sgd = ({r[1]: r[2:] for r in measured if r[0] == name} for name in ("Adam", "SGD"))
    rows = [set(row) for row in measured] + [{*adam[k], sgd[k][-1]} for k in adam]
    figures = re.compile(r"-|[\d.,]+( \w+)?")
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    quoted = [row for line in page.splitlines() if (row := cells(line)[1:])[4:]]
    quoted = [row for row in quoted if all(map(figures.fullmatch, row))]
    assert len(quoted) == 4 + 7 + 7
    for row in quoted:
        assert any(set(row) <= measured for measured in rows), row


def test_amounts() -> None:
    amounts = [scaling.amount(n) for n in (0, 8, 1536, 5 * 2**20, 3 * 2**30)]
    assert amounts == ["-", "8 B", "1.5 KiB", "5 MiB", "3 GiB"]


def test_a_sum_takes_as_long_as_so_many_tokens() -> None:
    rows = scaling.tokens(4e9, 2)
    link = scaling.LINKS[0]
    seconds = 4e9 / link.bandwidth  # of two ranks: all bytes go once
    assert rows[0]["tokens a rank"] == f"{seconds * scaling.SPEED / 6e9:,.0f}"

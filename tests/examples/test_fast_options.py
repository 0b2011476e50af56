"""The options of the examples that make networks faster, not different: formats and compilation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compare import exact, rounding
from examples.small_runs import TINY, ready, search_epochs
from torch import nn

import darts
import lfm_cw_darts
import sgl_darts
from mlopt import MloptError
from mlopt.generators import SharedDiscriminator
from mlopt.nas import GENOTYPES, EvaluationNetwork, MixedPrecision
from mlopt.report import RunFolder
from support import pipeline, settings
from support.networks import prepared
from support.retraining import build
from support.search import Search, run_search
from support.settings.options import PRECISIONS

SHORT = ["--epochs", "2", "--batch-size", "16"]
CENTRAL, EXACT = (["--order", "second", "--product", p] for p in ("central", "exact"))
EXAMPLES = {"darts": darts, "lfm_cw_darts": lfm_cw_darts, "sgl_darts": sgl_darts}


def kernels(network: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]


def searched(folder: Path, *more: str) -> tuple[Search, list[float]]:
    """A search that has run, and its losses."""
    search, loaders, data, s = ready(folder, darts, *SHORT, *more)
    with RunFolder.create(folder, {}) as run:
        run_search(search, loaders, run, data, s)
        lines = search_epochs(run)
    return search, [line[key] for line in lines for key in ("validation/loss", "gap")]


def test_the_option_makes_an_engine_that_compiles(tmp_path: Path) -> None:
    for more, compiles in (((), False), (("--compile", "eager"), True)):
        search, *_ = ready(tmp_path, darts, *SHORT, *more)
        assert (search.engine.compiled is not None) == compiles


@pytest.mark.slow  # tests/evaluation/test_compile.py compares compiled steps with plain ones
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_search_has_the_same_numbers(tmp_path: Path) -> None:
    """Also of passes: each graph is compiled once, and later calls of it are counted, too."""
    plain, losses = searched(tmp_path / "plain")
    compiled, same = searched(tmp_path / "compiled", "--compile", "eager")
    assert plain.engine.compiled is None
    assert plain.spent.steps == compiled.spent.steps == 4
    # four steps of networks of a cell, forth and back
    exact(same, losses, rounding(4 * 50, dtype=torch.float32))
    assert compiled.spent.passes == plain.spent.passes
    counts = compiled.engine.compiled.nodes
    assert {name: node.graphs for name, node in counts.items()} == dict.fromkeys(counts, 1)


def test_an_unknown_compiler_is_refused_before_the_run(tmp_path: Path) -> None:
    s = settings.parse(
        None, [*TINY, *SHORT, "--compile", "magic", "--run-folder", str(tmp_path / "run")]
    )
    with pytest.raises(MloptError, match="magic"):
        pipeline.run("darts", darts.scheme, s)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_network_has_the_formats(example: str, tmp_path: Path) -> None:
    """In low precision the search's networks are left to the engine, which takes differences."""
    options = ("--precision", "bf16", "--channels-last")
    search, _, data, s = ready(tmp_path, EXAMPLES[example], *SHORT, *options)
    trunks = [net.trunk for net in search.networks if isinstance(net, SharedDiscriminator)]
    found = [net for net in (*search.networks, *trunks) if isinstance(net, MixedPrecision)]
    assert len(found) == {"darts": 1, "lfm_cw_darts": 3, "sgl_darts": 4}[example]
    genotype = search.learners[0].space.derive(search.learners[0].architecture)
    derived = {p: build(genotype, data, replace(s, precision=p)) for p in PRECISIONS}
    assert [n.autocast for n in derived.values()] == [None, torch.bfloat16, None]
    assert all(network.autocast is None for network in found)
    for network in (*found, prepared(derived["bf16"], s)):
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels(network))


def test_channels_last_changes_kernels() -> None:
    """Those of grey images, and of one pixel, are the same in both formats."""
    strides = {}
    for flag in ("--channels-last", "--no-channels-last"):
        s = settings.parse(None, [*TINY, *SHORT, flag])
        network = prepared(EvaluationNetwork(GENOTYPES["DARTS_V2"], 2, 1), s)
        strides[flag] = kernels(network)[0].stride()
    assert strides == {"--channels-last": (27, 1, 9, 3), "--no-channels-last": (27, 9, 3, 1)}


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("precision", "options", "dtypes"),
    [
        ("float32", CENTRAL, {FP32}),
        ("bf16", ["--order", "first"], {BF16}),
        ("bf16", [*CENTRAL, "--parts", "2"], {BF16, FP32}),
        ("fp16", CENTRAL, {FP16, FP32}),
        ("fp16", EXACT, {FP16}),
    ],
)
def test_the_engine_decides_the_precision(
    precision: str, options: list[str], dtypes: set[torch.dtype], tmp_path: Path
) -> None:
    """Convolutions of a step: in low precision, in float32 where differences are taken."""
    search, *_ = ready(tmp_path, darts, *SHORT, *options, "--precision", precision)
    before = [p.clone() for p in search.learners[0].architecture.parameters()]
    search.engine.step()  # which is checked, too
    seen: set[torch.dtype] = set()
    for module in search.networks[0].modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, x, out: seen.add(out.dtype))
    search.engine.step()
    assert search.engine.skipped is None
    assert seen == dtypes
    after = search.learners[0].architecture.parameters()
    assert not all(torch.equal(p, b) for p, b in zip(after, before, strict=True))


STAGES = ["--space", "p-darts", "--add-cells", "0", "1", "2"]


@pytest.mark.parametrize(
    ("example", "options"),
    [
        ("lfm_cw_darts", [*CENTRAL, "--parts", "2", "--precision", "fp16"]),
        *(
            pytest.param(example, [*order, *more, "--precision", p], marks=pytest.mark.slow)
            for example, more in (("lfm_cw_darts", STAGES), ("darts", []), ("sgl_darts", []))
            for order in (["--order", "first"], CENTRAL, EXACT)
            for p in ("bf16", "fp16")
        ),
    ],
)
def test_a_search_in_low_precision(example: str, options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    s = settings.parse(None, [*TINY, *SHORT, *options, "--run-folder", str(folder)])
    pipeline.run(example, EXAMPLES[example].scheme, s)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows += json.loads((folder / "result.json").read_text())["rows"]
    assert {"search-epoch", "retrain"} <= {row.get("phase") for row in rows}
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))

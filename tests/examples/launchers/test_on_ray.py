"""`--launcher ray`: cells as tasks of a cluster, on two nodes that both are this machine."""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.launchers.launched_runs import STEPS, beside, endless, killed_once, noted, was_saved
from examples.tables.experiment_runs import make, read

import experiments
import mlopt
from support.launchers import OnRay, on_ray


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with a CPU each; the first has what counts as a GPU."""
    pytest.importorskip("ray", reason="pip install ray")
    handler = signal.getsignal(signal.SIGTERM)
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with (
        pytest.MonkeyPatch.context() as patch,
        # in a short path: it has sockets
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_TMPDIR", folder)  # where it notes its address, in a folder that is there
        (Path(folder) / "ray").mkdir()
        from ray.cluster_utils import Cluster

        cluster = Cluster(True, head_node_args={**node, "num_gpus": 1, "temp_dir": folder})
        try:
            cluster.add_node(**node)
            signal.signal(signal.SIGTERM, handler)  # nodes take it
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.mark.parametrize("fails", [None, 2])
def test_a_table_of_which_a_worker_is_killed(
    tmp_path: Path,
    tables: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    address: str,
    fails: int | None,
) -> None:
    """All six cells are done, but for one that fails by itself."""
    monkeypatch.setattr(experiments, "start", functools.partial(killed_once, fails=fails))
    monkeypatch.chdir(tmp_path)
    command = ["--table", "t", "--folder", "out", "--launcher", "ray", "--address", address]
    command += ["--retries", "1", "--set", f"epochs={STEPS}"]
    assert experiments.main(command) == (0 if fails is None else 1)
    said = capfd.readouterr().out
    assert "DARTS-1st, seed 1: its worker died (WorkerCrashedError); retry 1 of 1\n" in said
    failed = "DARTS-1st, seed 2: failed: ZeroDivisionError: by zero\n"
    assert (failed in said) is (fails == 2)

    monkeypatch.chdir("/")  # the workers had the other
    experiment = make(tmp_path, given={"epochs": STEPS})
    (darts, lfm) = (line.cells for line in experiment.lines)
    states = [row["states"] for row in read(experiment)["rows"]]
    last = "done" if fails is None else "failed"
    assert states == [{"0": "done", "1": "done", "2": last}, dict.fromkeys("012", "done")]
    assert [noted(cell, "steps") for cell in (*darts[:2], *lfm)] == [[0, 1, 2, 3]] * 5
    assert [noted(cell, "threads") for cell in darts[:2]] == [[1], [1, 1]]
    assert (experiment.root / "page.html").is_file()


def test_a_signal_lets_all_cells_save(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Two share what counts as a GPU, and the third waits."""
    start = functools.partial(endless, [(os.getpid(), signal.SIGTERM)])
    monkeypatch.setattr(experiments, "start", start)
    cells = make(tmp_path, given={"epochs": STEPS + 1}).lines[0].cells
    cells[0].output.parent.mkdir(parents=True)
    os.mkfifo(beside(cells[1].s, "pipe"))
    command = [
        "--table", "t", "--rows", "plain", "--folder", str(tmp_path / "out"), "--launcher", "ray",
        "--address", address, "--cpus", "0.25", "--gpus", "0.5", "--device", "cuda", "--set",
        f"epochs={STEPS + 1}",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        experiments.main(command)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not sys.modules["ray"].is_initialized()
    assert was_saved(cells[0])
    assert was_saved(cells[1])
    assert [noted(cell, "gpu") for cell in cells] == [[0], [0], []]
    assert cells[2].state() == "to run"


def test_a_worker_without_the_program_fails_its_cell(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The next one begins in its place."""
    folder = tmp_path / "alone"
    folder.mkdir()
    experiment = make(tmp_path, seeds=[0])
    launcher = OnRay(experiments.start, address, cpus=0.5)
    monkeypatch.setattr(os, "getcwd", lambda: str(folder))
    folder.rmdir()
    assert experiments.run(experiment, (), launcher) == 2
    error = experiment.lines[0].cells[0].error()
    assert f"has no folder {folder}, in which the table was started; the nodes" in error


def test_no_cluster(tmp_path: Path, tables: Any) -> None:
    pytest.importorskip("ray", reason="pip install ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        nowhere = f"127.0.0.1:{server.getsockname()[1]}"
    command = ["--table", "t", "--folder", str(tmp_path / "out"), "--launcher", "ray"]
    with pytest.raises(SystemExit, match=rf"^error: --address {nowhere}: there is no Ray cl"):
        experiments.main([*command, "--address", nowhere])
    with pytest.raises(SystemExit, match=r"^error: --address nowhere: there is no Ray"):
        experiments.main([*command, "--address", "nowhere"])
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(
    tmp_path: Path, tables: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(mlopt.SettingsError, match="needs the package ray.*: pip install ray$"):
        OnRay(experiments.start)


def test_a_node_that_does_not_share_the_file_system_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no folder .*the nodes of the cluster must"):
        on_ray._task()([], str(tmp_path / "none"), b"")

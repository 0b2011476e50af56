"""The script of docs/cluster.md for Slurm, with what stands for its programs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import experiments

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cluster.md"
if not PAGE.is_file():
    pytest.skip("no docs beside these tests", allow_module_level=True)

(SCRIPT,) = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text(), re.DOTALL)

#: Ends with a status; with 143 it waits for SIGTERM, and saves.
PYTHON = f"""#!{sys.executable}
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
open("began", "w").write(" ".join(sys.argv[1:]))
status = int(os.environ["STATUS"])
if status == 143:
    signal.sigwait([signal.SIGTERM])
    open("saved", "w").close()
sys.exit(status)
"""


@pytest.mark.parametrize("status", [0, 1, 143])
def test_the_script_requeues_what_was_interrupted(tmp_path: Path, status: int) -> None:
    for name, text in {
        "python": PYTHON,
        "scontrol": '#!/bin/sh\necho "$*" > requeued\n',
        "activate": 'PATH="$PWD/.venv/bin:$PATH"\n',
    }.items():
        path = tmp_path / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    os.mkfifo(tmp_path / "began")
    slurm = {
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "8", "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "3", "STATUS": str(status),
    }  # fmt: skip
    with subprocess.Popen(["bash", "-c", SCRIPT], env={**os.environ, **slurm}) as script:
        command = (tmp_path / "began").read_text().split()
        if status == 143:
            os.kill(script.pid, signal.SIGTERM)
    assert script.returncode == status
    assert (tmp_path / "saved").exists() is (status == 143)
    requeued = tmp_path / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == (
        "requeue 77_3\n" if status == 143 else ""
    )
    options = experiments.parsed(command[2:])  # after -u and the program
    assert (options.table, options.device) == ("lfm-cw-cifar10", "cuda")

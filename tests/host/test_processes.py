"""Two processes on one machine, over CPU collectives, give the numbers of one; so does going on with other devices."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.host import checkpoint, logs, processes


def _start(folder, steps, *, count, devices):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    worker = Path(__file__).with_name("_worker.py")
    return [
        subprocess.Popen(
            [sys.executable, worker, *map(str, (i, count, port, devices, folder, steps))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip


def _run(folder, steps, *, count, devices):
    started = _start(folder, steps, count=count, devices=devices)
    finished = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * count, finished[0][1] + finished[-1][1]
    return [np.array(out.split()[-4:], float) for out, _ in finished], [err for _, err in finished]


@pytest.mark.slow
def test_two_processes_stop_and_go_on_with_the_numbers_of_one(tmp_path):
    (reference,), _ = _run(tmp_path / "one", 12, count=1, devices=1)
    several = tmp_path / "several"
    _, shown = _run(several, 4, count=2, devices=2)
    assert "step 4/4" in shown[0] and shown[1].count("step") == 0  # one process speaks
    both, shown = _run(several, 8, count=2, devices=2)
    assert "resuming from step 4" in shown[0]
    np.testing.assert_array_equal(both[0], both[1])
    assert checkpoint.steps(several) == [4, 8]
    (last,), shown = _run(several, 12, count=1, devices=8)
    assert "resuming from step 8" in shown[0]
    np.testing.assert_allclose(last, reference, rtol=1e-5)  # the sum cancels
    steps, losses = logs.column(logs.read(several / "log.jsonl"), "train/loss")
    np.testing.assert_array_equal(steps, [2, 4, 6, 8, 10, 12])
    np.testing.assert_allclose(
        losses, logs.column(logs.read(tmp_path / "one" / "log.jsonl"), "train/loss")[1], rtol=2e-6
    )


@pytest.mark.slow
def test_a_signal_that_reaches_one_process_stops_all(tmp_path):
    lead, other = started = _start(tmp_path, 1_000_000, count=2, devices=1)
    while "step" not in (line := lead.stderr.readline()):
        assert line, lead.communicate()
    other.send_signal(signal.SIGTERM)
    shown = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [143, 143], shown
    assert "interrupted and saved at step" in shown[0]
    assert checkpoint.steps(tmp_path)[-1] % 2 == 0


@pytest.mark.slow
def test_the_script_of_build_md_finds_its_processes_under_slurm(tmp_path):
    text = (Path(__file__).parents[2] / "BUILD.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]
    assert "jax.distributed.initialize()" in script
    (tmp_path / "train.py").write_text(script.replace("1_000", "4"))
    job = os.getpid()  # from which the coordinator's port is made
    started = [
        subprocess.Popen(
            [sys.executable, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {
                "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
                "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
            },
        )
        for i in range(2)
    ]  # fmt: skip
    finished = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], finished[0][1] + finished[1][1]
    assert "step 4/4" in finished[0][1] and "step" not in finished[1][1]  # one process speaks
    assert checkpoint.steps(tmp_path / "runs" / "pod") == [4]


def test_alone_a_process_leads_and_agrees_with_itself():
    assert processes.leads()
    assert [processes.agreed(None), processes.agreed(15)] == [None, 15]
    assert processes.from_lead(lambda: (3, "state"), dict) == (3, "state")
    tree = {"a": np.ones(2)}
    assert processes.on_host(tree)["a"] is tree["a"]

    def fails():
        raise InputError("no such run")

    with pytest.raises(InputError, match="no such run"):
        processes.from_lead(fails, dict)

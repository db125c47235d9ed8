"""`kill -9` at random moments loses nothing. Run as a script, this file is the process that gets killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

NUM_STEPS = 3_000
KILLS = 20
DURING_A_SAVE = 8


def train(folder):
    import jax
    import jax.numpy as jnp

    from metalearn.core import Algorithm
    from metalearn.host._run import run

    def init(key, batch):
        return {"weights": jax.random.normal(key, (300, 300)), "key": key}

    def step(state, batch, key):
        jax.debug.callback(lambda: time.sleep(0.002))  # so that a kill comes before the end
        noise = jax.random.normal(key, (300,))
        loss = jnp.mean((state["weights"] @ batch - noise) ** 2)
        weights = state["weights"] * 0.999 + 1e-3 * jnp.outer(noise, batch)
        return {"weights": weights, "key": jax.random.fold_in(state["key"], 1)}, {"loss": loss}

    run(
        Algorithm(init, step), lambda key: jax.random.normal(key, (300,)), NUM_STEPS, key=jax.random.key(0),
        evaluate=lambda state, key: {"loss": jnp.mean(state["weights"] ** 2)}, every=50, log_every=20,
        checkpoint_every=100, folder=folder, config={"seed": 0}, progress=False, tensorboard=False,
    )  # fmt: skip


def launch(folder):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, __file__, str(folder)], env=environment, stderr=subprocess.PIPE, text=True)


def reached(folder):
    """The last step in the log, which may be half-written."""
    from metalearn.host import logs

    lines = logs.read(folder / "log.jsonl")
    return lines[-1]["step"] if lines else 0


def saving(folder):
    root = folder / "checkpoints"
    return root.is_dir() and any("tmp" in path.name for path in root.iterdir())


def wait(process, condition, pause=0.001):
    while process.poll() is None and not condition():
        time.sleep(pause)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    from metalearn.host import checkpoint, logs

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = launch(whole)
    assert uninterrupted.communicate()[1] == ""
    assert uninterrupted.returncode == 0

    random = np.random.default_rng(0)
    kinds = random.permutation(["save"] * DURING_A_SAVE + ["step"] * 8 + ["clock"] * (KILLS - DURING_A_SAVE - 8))
    goals = np.sort(random.uniform(0, 0.8 * NUM_STEPS, KILLS))
    interrupted_saves, messages = 0, []
    for kind, goal in zip(kinds, goals, strict=True):
        process = launch(killed)
        # By the clock a kill may come anywhere: while the program starts or restores too.
        until = time.monotonic() + (random.uniform(0.5, 4.0) if kind == "clock" else 1000.0)
        wait(process, lambda: reached(killed) > goal or time.monotonic() > until, pause=0.01)  # noqa: B023
        if kind == "save":
            wait(process, lambda: not saving(killed))
            wait(process, lambda: saving(killed))
        time.sleep(random.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        messages.append(process.communicate()[1])
        assert process.returncode == -signal.SIGKILL, messages[-1]
        interrupted_saves += saving(killed)
    assert interrupted_saves >= 5

    last = launch(killed)
    messages.append(last.communicate()[1])
    assert last.returncode == 0
    assert not any(messages), messages  # not one complaint
    timeless = [
        [
            {k: v for k, v in line.items() if k not in ("time", "steps_per_second")}
            for line in logs.read(f / "log.jsonl")
        ]
        for f in (whole, killed)
    ]
    assert timeless[0] == timeless[1]
    assert timeless[0][-1]["step"] == NUM_STEPS
    like = {"weights": np.zeros((300, 300), np.float32), "key": np.zeros(2, np.uint32)}
    (a, step_a), (b, step_b) = (checkpoint.restore(folder, like) for folder in (whole, killed))
    assert step_a == step_b == NUM_STEPS
    for name in like:
        np.testing.assert_array_equal(a[name], b[name])
    shutil.rmtree(tmp_path)


if __name__ == "__main__":
    train(sys.argv[1])

"""Runs against a plain Python loop; resumed, interrupted and batched runs against runs that were not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.aggregate import mean
from metalearn.core import Algorithm, Batch, InputError, Statistic, Task, Update
from metalearn.host import checkpoint, lock, logs
from metalearn.host._run import NonFiniteLoss, run
from metalearn.host.steps import EVALUATE, INIT
from metalearn.mapping import scanned
from metalearn.outer import over_clients

OPTIMIZER = optax.adam(0.05)


def init(key, batch):
    params = jax.random.normal(key, batch.shape)
    return {
        "params": params,
        "opt_state": OPTIMIZER.init(params),
        "mean": Statistic(jnp.zeros(())),
        "key": jax.random.fold_in(key, 7),
        "count": 0,
        "best": jnp.inf,
    }


def step(state, batch, key):
    noise = 0.01 * jax.random.normal(key, batch.shape)
    loss, grads = jax.value_and_grad(lambda p: jnp.mean((p - batch - noise) ** 2))(state["params"])
    updates, opt_state = OPTIMIZER.update(grads, state["opt_state"])
    new = {
        "params": optax.apply_updates(state["params"], updates),
        "opt_state": opt_state,
        "mean": Statistic(0.9 * state["mean"].value + 0.1 * loss),
        "key": jax.random.split(state["key"])[0],
        "count": state["count"] + 1,
        "best": jnp.minimum(state["best"], loss),
    }
    return new, {"loss": loss, "far": jnp.abs(batch), "per_task/x": batch}


def sample(key):
    return 1.0 + jax.random.normal(key, (3,))


def evaluate(state, key):
    return {"loss": jnp.mean((state["params"] - sample(key)) ** 2), "each": state["params"]}


QUADRATIC = Algorithm(init, step)


pytestmark = pytest.mark.usefixtures("compile_once")


def python_loop(key, num_steps):
    """The same training, one step after another, written from the documentation of the keys."""
    fold, one = jax.random.fold_in, jax.jit(step)
    begin = fold(key, np.uint32(INIT))
    state, losses = init(fold(begin, 1), sample(fold(begin, 0))), []
    for t in range(num_steps):
        state, metrics = one(state, sample(fold(fold(key, t), 0)), fold(fold(key, t), 1))
        losses.append(float(metrics["loss"]))
    return state, losses


def bits(tree):
    """Every leaf as bytes."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    leaves = [jax.random.key_data(x) if is_key(x) else x for x in jax.tree.leaves(tree)]
    return [np.asarray(x).tobytes() for x in leaves]


def timeless(history):
    return [{k: v for k, v in line.items() if k not in ("time", "steps_per_second")} for line in history]


def quiet(num_steps, **options):
    options = {"key": jax.random.key(0), "log_every": 10, "progress": False, "tensorboard": False} | options
    return run(options.pop("algorithm", QUADRATIC), options.pop("sample", sample), num_steps, **options)


@pytest.mark.slow
def test_history_is_that_of_a_python_loop(key):
    state, history = quiet(25, evaluate=evaluate, every=15)
    expected, losses = python_loop(key, 25)
    chex.assert_trees_all_close(state["params"], expected["params"], rtol=1e-5)
    assert [line["step"] for line in history] == [10, 15, 15, 20, 25, 25]
    steps, means = logs.column(history, "train/loss")
    np.testing.assert_array_equal(steps, [10, 15, 20, 25])
    chunks = [losses[:10], losses[10:15], losses[15:20], losses[20:]]
    np.testing.assert_allclose(means, [np.mean(chunk) for chunk in chunks], rtol=1e-5)
    steps, values = logs.column(history, "validation/loss")
    np.testing.assert_array_equal(steps, [15, 25])
    seen = evaluate(expected, jax.random.fold_in(key, np.uint32(EVALUATE)))
    np.testing.assert_allclose(values[-1], seen["loss"], rtol=1e-5)
    np.testing.assert_allclose(history[-1]["validation/each"], np.mean(expected["params"]), rtol=1e-5)
    assert not any("per_task" in name for line in history for name in line)
    assert set(history[0]) == {"step", "train/loss", "train/far", "time", "steps_per_second"}


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_chunks():
    state, _ = quiet(24, log_every=100)
    for options in ({"log_every": 1}, {"log_every": 7}, {"log_every": 5, "every": 3, "evaluate": evaluate}):
        assert bits(quiet(24, **options)[0]) == bits(state)


def test_nothing_is_traced_twice():
    counts = {"init": 0, "step": 0, "sample": 0, "evaluate": 0}

    def counted(name, fn):
        def wrapped(*args):
            counts[name] += 1
            return fn(*args)

        return wrapped

    algorithm = Algorithm(counted("init", init), chex.assert_max_traces(step, n=1))
    quiet(
        57, algorithm=algorithm, sample=counted("sample", sample), evaluate=counted("evaluate", evaluate), every=13,
        log_every=10,
    )  # fmt: skip
    assert counts == {"init": 1, "step": 0, "sample": 2, "evaluate": 1}  # init and step sample


@pytest.mark.parametrize("way", ["at once", "in turn"])
def test_seeds_are_each_their_own_run(way):
    keys, mapped = jax.random.split(jax.random.key(3), 3), []

    def in_turn(fn, shared, xs):
        mapped.append(len(jax.tree.leaves(xs)[0]))
        return scanned()(fn, shared, xs)

    mapping = in_turn if way == "in turn" else None
    state, history = quiet(10, key=keys, evaluate=evaluate, every=5, log_every=5, mapping=mapping)
    assert mapped == ([] if mapping is None else [3, 3, 3])  # what begins, what steps and what evaluates
    for s, seed in enumerate(keys):
        alone, history_alone = quiet(10, key=seed, evaluate=evaluate, every=5, log_every=5)
        chex.assert_trees_all_close(state["params"][s], alone["params"], rtol=1e-5)
        for leaf, expected in zip(
            jax.tree.leaves(state["opt_state"]), jax.tree.leaves(alone["opt_state"]), strict=True
        ):
            np.testing.assert_allclose(leaf[s], expected, rtol=1e-5)
        for name in ("train/loss", "train/far", "validation/loss", "validation/each"):
            steps, values = logs.column(history, name)
            steps_alone, values_alone = logs.column(history_alone, name)
            np.testing.assert_array_equal(steps, steps_alone)
            np.testing.assert_allclose(values[:, s], values_alone, rtol=1e-5)


@pytest.mark.parametrize(
    ("log_every", "every", "checkpoint_every"), [(10, 20, None), (10, 7, None), (7, 20, 5), (100, 6, 4)]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, log_every, every, checkpoint_every):
    options = dict(evaluate=evaluate, log_every=log_every, every=every, checkpoint_every=checkpoint_every)
    whole, history = quiet(60, folder=tmp_path / "whole", **options)
    state, short = quiet(40 if every == 20 else 42, folder=tmp_path / "parts", **options)
    state, resumed = quiet(60, folder=tmp_path / "parts", **options)
    assert bits(state) == bits(whole)
    cut = short[-1]["step"]
    drop = lambda lines: [line for line in timeless(lines) if line["step"] != cut and "train/loss" in line]  # noqa: E731
    if cut % log_every and cut % every:  # a run that ended between boundaries has a boundary more
        history, resumed = drop(history), drop(resumed)
    assert timeless(resumed) == timeless(history)
    assert logs.read(tmp_path / "parts" / "log.jsonl") == quiet(60, folder=tmp_path / "parts", **options)[1]


def test_seeds_resume_too(tmp_path):
    keys = jax.random.split(jax.random.key(3), 3)
    whole, history = quiet(40, key=keys, evaluate=evaluate, every=10)
    quiet(20, key=keys, evaluate=evaluate, every=10, folder=tmp_path)
    state, resumed = quiet(40, key=keys, evaluate=evaluate, every=10, folder=tmp_path)
    assert bits(state) == bits(whole)
    assert timeless(resumed) == timeless(history)


def test_a_finished_run_returns_at_once(tmp_path):
    state, history = quiet(20, folder=tmp_path)

    def step_that_must_not_run(state, batch, key):
        def fail():
            raise AssertionError

        jax.debug.callback(fail)
        return step(state, batch, key)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    again, full = quiet(20, algorithm=Algorithm(init, step_that_must_not_run), folder=tmp_path)
    assert bits(again) == bits(state)
    assert full == history
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    with pytest.raises(InputError, match=r"num_steps: is 10, and .* is at step 20 already"):
        quiet(10, folder=tmp_path)


def test_log_lines_after_the_checkpoint_and_half_lines_are_removed(tmp_path):
    whole, history = quiet(60, folder=tmp_path / "whole", checkpoint_every=20)
    quiet(40, folder=tmp_path / "parts", checkpoint_every=20)
    log = tmp_path / "parts" / "log.jsonl"
    later = '{"step": 50, "train/loss": 1.0, "time": 9.0, "steps_per_second": 1.0}\n{"step": 60, "train/lo'
    log.write_text(log.read_text() + later)
    state, resumed = quiet(60, folder=tmp_path / "parts", checkpoint_every=20)
    assert bits(state) == bits(whole)
    assert timeless(resumed) == timeless(history) == timeless(logs.read(log))
    assert len(log.read_text().splitlines()) == len(history)
    times = [line["time"] for line in resumed]
    assert times == sorted(times)


def test_a_damaged_checkpoint_costs_one_interval_and_one_sentence(tmp_path, capfd):
    whole, history = quiet(60, folder=tmp_path / "whole", checkpoint_every=10)
    quiet(40, folder=tmp_path / "parts", checkpoint_every=10)
    newest = tmp_path / "parts" / "checkpoints" / "40"
    data = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-3])
    capfd.readouterr()
    state, resumed = quiet(60, folder=tmp_path / "parts", checkpoint_every=10)
    assert bits(state) == bits(whole)
    assert timeless(resumed) == timeless(history)
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "checkpoint 40" in said.err
    assert "checkpoint 30 is used" in said.err
    assert (tmp_path / "parts" / "damaged" / "40").is_dir()
    assert checkpoint.steps(tmp_path / "parts") == [40, 50, 60]


def test_nothing_whole_is_an_error_that_loses_nothing(tmp_path):
    quiet(20, folder=tmp_path)
    log = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "checkpoints" / "20" / "digest" / "metadata").write_text("{}")
    with pytest.raises(InputError, match="no checkpoint that can be read"):
        quiet(30, folder=tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == log


def test_the_best_is_chosen_by_the_evaluation(tmp_path):
    def worse_and_worse(state, key):
        return {"accuracy": 1.0 / state["count"], "loss": 1.0 / state["count"], "size": state["count"]}

    for best, expected in (None, 5), ("accuracy", 5), ("loss", 20), ("max:size", 20), ("min:size", 5):
        folder = tmp_path / str(best)
        state, _ = quiet(20, evaluate=worse_and_worse, every=5, keep=1, best=best, folder=folder)
        assert checkpoint.steps(folder) == sorted({expected, 20})
        restored, found = checkpoint.restore(folder, state, step="best")
        assert found == expected == restored["count"]
    for best, message in ("acuracy", "'acuracy' is not evaluated; expected one of accuracy"), ("size", "max:size"):
        with pytest.raises(InputError, match=message):
            quiet(20, evaluate=worse_and_worse, best=best)


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 3
    num_steps: int = 20
    rates: tuple = (0.1, 0.2)
    optimizer: dict = dataclasses.field(default_factory=lambda: {"name": "adam", "rate": 0.1})
    data: str = "/somewhere/on/this/machine/omniglot"
    loss: object = np.mean


def test_another_config_is_refused_field_by_field(tmp_path):
    quiet(20, folder=tmp_path, config=Config())
    other = Config(seed=4, num_steps=30, optimizer={"name": "adam", "rate": 0.2})
    with pytest.raises(InputError, match=r"optimizer.rate was 0.1 and is 0.2; seed was 3 and is 4\.") as error:
        quiet(30, folder=tmp_path, config=other)
    assert "num_steps" not in str(error.value)
    assert "name" not in str(error.value)
    with pytest.raises(InputError, match="num_steps was 20 and is 30"):
        quiet(30, folder=tmp_path, config=Config(num_steps=30), free=())
    with pytest.raises(InputError, match=r"extra was '\(none\)' and is 1"):
        quiet(20, folder=tmp_path, config=dataclasses.asdict(Config()) | {"extra": 1})
    with pytest.raises(InputError, match=r"key was \[0, 0\] and is \[0, 1\]"):
        quiet(20, folder=tmp_path, config=Config(), key=jax.random.key(1))
    assert quiet(30, folder=tmp_path, config=Config(num_steps=30))[1][-1]["step"] == 30
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 30


def test_checkpoints_of_nobody_knows_which_run_are_not_gone_on_from(tmp_path):
    quiet(20, folder=tmp_path, config=Config())
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"has checkpoints but no config\.json to tell whose"):
        quiet(30, folder=tmp_path, config=Config(num_steps=30))


def test_the_folder_tells_where_the_run_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/someone/train.py", "--data=/home/someone/data", "--seed", "3"])
    quiet(20, folder=tmp_path, config=Config(), tensorboard=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["seed"] == 3
    assert config["rates"] == [0.1, 0.2]
    assert config["data"] == "omniglot"
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["command"] == ["train.py", "--data=data", "--seed", "3"]
    assert environment["jax"] == jax.__version__
    assert environment["optax"] == optax.__version__
    assert environment["seeds"] == 3
    assert {"python", "jaxlib", "flax", "orbax-checkpoint", "numpy", "metalearn", "device", "cpus", "git"} <= set(
        environment
    )
    for name in ("config.json", "environment.json"):
        assert "/home" not in (tmp_path / name).read_text()
        assert str(tmp_path) not in (tmp_path / name).read_text()
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"config.json", "environment.json", "log.jsonl", "checkpoints", "tensorboard"}
    assert any("tfevents" in path.name for path in (tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("bad", [jnp.nan, pytest.param(jnp.inf, marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_stops_and_is_not_saved(tmp_path, bad):
    def diverging(state, batch, key):
        state, metrics = step(state, batch, key)
        loss = jnp.where(state["count"] == 37, bad, metrics["loss"])
        return state | {"params": state["params"] * loss / loss}, metrics | {"loss": loss}

    algorithm = Algorithm(init, diverging)
    with pytest.raises(NonFiniteLoss, match=r"at step 37; the last good checkpoint is that of step 30 in"):
        quiet(60, algorithm=algorithm, folder=tmp_path, checkpoint_every=10)
    state, found = checkpoint.restore(tmp_path, jax.eval_shape(init, jax.random.key(0), jnp.zeros(3)))
    assert found == 30
    assert np.isfinite(state["params"]).all()
    with pytest.raises(NonFiniteLoss, match="step 37"):  # and again, from step 30
        quiet(60, algorithm=algorithm, folder=tmp_path, checkpoint_every=10)
    with pytest.raises(NonFiniteLoss, match="step 37; nothing was saved, because"):
        quiet(60, algorithm=algorithm)
    with pytest.raises(NonFiniteLoss, match=r"loss of seed 0 is .* at step 37"):
        quiet(60, algorithm=algorithm, key=jax.random.split(jax.random.key(0), 2))


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """The last step before a checkpoint spoils the parameters, and its loss does not know yet."""

    def spoiling(state, batch, key):
        state, metrics = step(state, batch, key)
        return state | {"params": jnp.where(state["count"] == 40, jnp.nan, state["params"])}, metrics

    with pytest.raises(NonFiniteLoss, match=r"The state's \['params'\] is not finite after step 40; .* step 30 in"):
        quiet(60, algorithm=Algorithm(init, spoiling), folder=tmp_path, checkpoint_every=10)
    assert checkpoint.steps(tmp_path) == [10, 20, 30]


def test_without_a_folder_a_state_that_is_not_finite_is_not_returned():
    def spoiling(state, batch, key):
        state, metrics = step(state, batch, key)
        return state | {"params": jnp.where(state["count"] == 20, jnp.nan, state["params"])}, metrics

    with pytest.raises(NonFiniteLoss, match=r"The state's \['params'\] is not finite after step 20; nothing was saved"):
        quiet(20, algorithm=Algorithm(init, spoiling))


def test_checkpoints_are_seconds_apart_unless_steps_are_given(tmp_path, monkeypatch):
    quiet(60, folder=tmp_path / "fast")
    assert checkpoint.steps(tmp_path / "fast") == [60]
    monkeypatch.setattr("metalearn.host._run._SECONDS", 0.0)
    quiet(30, folder=tmp_path / "slow", keep=5)
    assert checkpoint.steps(tmp_path / "slow") == [10, 20, 30]
    with pytest.raises(InputError, match="checkpoint_every"):
        quiet(10, folder=tmp_path / "none", checkpoint_every=0)


@pytest.mark.slow
def test_convolutions_are_not_put_into_a_loop_on_cpu():
    images = jnp.ones((2, 8, 8, 1))

    def conv_step(state, batch, key):
        def loss(kernel):
            out = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.mean((out - batch) ** 2)

        hidden = jax.jit(jax.checkpoint(jax.value_and_grad(loss)))  # the search must look inside
        value, grads = hidden(state)
        return state - 0.1 * grads, {"loss": value}

    algorithm = Algorithm(lambda key, batch: jax.random.normal(key, (3, 3, 1, 1)), conv_step)
    traced = chex.assert_max_traces(conv_step, n=1)
    state, history = quiet(23, algorithm=algorithm._replace(step=traced), sample=lambda key: jax.random.normal(key, ()))
    one, losses, fold, root = jax.jit(conv_step), [], jax.random.fold_in, jax.random.key(0)
    expected = algorithm.init(fold(fold(root, np.uint32(INIT)), 1), None)
    for t in range(23):
        expected, metrics = one(expected, jax.random.normal(fold(fold(root, t), 0), ()), None)
        losses.append(float(metrics["loss"]))
    chex.assert_trees_all_close(state, expected, rtol=1e-4, atol=1e-6)
    means = [np.mean(chunk) for chunk in (losses[:10], losses[10:20], losses[20:])]
    np.testing.assert_allclose(logs.column(history, "train/loss")[1], means, rtol=1e-5)


def test_what_the_user_owns_is_not_donated():
    """States made of arrays from outside, the same one twice."""
    outside = jnp.arange(3.0)
    algorithm = Algorithm(
        lambda key, batch: {"a": outside, "b": outside, "key": key},
        lambda state, batch, key: (state | {"a": state["a"] + 1}, {"loss": jnp.sum(state["a"])}),
    )
    key = jax.random.key(0)
    state, _ = quiet(12, algorithm=algorithm, key=key)
    np.testing.assert_array_equal(state["a"], outside + 12)
    np.testing.assert_array_equal(state["b"], outside)
    assert jax.random.key_data(key).shape == (2,)


def test_bad_arguments_get_one_sentence(tmp_path):
    for options, message in (
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, but is 0"),
        ({"log_every": 0}, "log_every must be .* is 0"),
        ({"every": 2.5}, r"every must be .* is 2\.5"),
        ({"keep": -1}, "keep must be .* is -1"),
        ({"key": jax.random.PRNGKey(0)}, r"key: has dtype uint32"),
        ({"key": 0}, "key: has 0"),
        ({"config": {"x": object()}, "folder": tmp_path / "a"}, "config: a object cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            quiet(options.pop("num_steps", 5), **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder: .* cannot be written to"):
        quiet(5, folder=tmp_path / "file" / "run")


def test_progress_off_is_silent_and_plain_lines_come_elsewhere(tmp_path, capfd):
    quiet(20, folder=tmp_path)
    quiet(40, folder=tmp_path)
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""
    quiet(60, folder=tmp_path, progress=True, evaluate=evaluate)
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert said.out == ""
    assert len(lines) == 2
    assert lines[0].startswith("resuming from step 40")
    assert lines[1].startswith("step 60/60  loss ")
    assert "validation loss" in lines[1]
    assert "steps/s" in lines[1]


def test_from_another_thread_no_handlers_are_set(tmp_path):
    results, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: results.append(quiet(20, folder=tmp_path)))
    thread.start()
    thread.join()
    assert results[0][1][-1]["step"] == 20
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_importing_run_is_cheap():
    heavy = ("orbax", "rich.progress", "tensorboardX")
    check = f"import sys, metalearn.host._run; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SLEEPER = """
    import signal, sys, time
    import jax, jax.numpy as jnp
    from metalearn.core import Algorithm
    from metalearn.host._run import run

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have inherited "ignore"

    def step(state, batch, key):
        jax.debug.callback(lambda: time.sleep(0.005), ordered=False)
        return state + jnp.mean(batch), {"loss": jnp.abs(state)}

    algorithm = Algorithm(lambda key, batch: jnp.zeros(()), step)
    state, history = run(
        algorithm, lambda key: jax.random.normal(key, (3,)), int(sys.argv[2]), key=jax.random.key(0),
        folder=sys.argv[1], log_every=10, checkpoint_every=1000, progress=False, tensorboard=False,
    )
    print(float(state))
"""


def sleeper_sample(key):
    return jax.random.normal(key, (3,))


def start(folder, num_steps):
    command = [sys.executable, "-c", textwrap.dedent(SLEEPER), str(folder), str(num_steps)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, (130, -signal.SIGINT)), (signal.SIGTERM, (143,))])
def test_signals_save_and_say_how_to_go_on(tmp_path, number, codes):
    log = tmp_path / "log.jsonl"
    process = start(tmp_path, 1_000_000)
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        threading.Event().wait(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode in codes
    assert "second one stops at once" in error
    assert "the same command goes on from there" in error
    (stopped,) = checkpoint.steps(tmp_path)
    assert stopped == logs.read(log)[-1]["step"]
    assert stopped % 10 == 0
    process = start(tmp_path, stopped + 30)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    key, losses, total = jax.random.key(0), [], np.float32(0)
    draws = jax.jit(jax.vmap(lambda t: sleeper_sample(jax.random.fold_in(jax.random.fold_in(key, t), 0))))
    for batch in np.asarray(draws(jnp.arange(stopped + 30))):
        losses.append(abs(total))
        total += np.mean(batch)
    np.testing.assert_allclose(float(output), total, rtol=1e-4)
    steps, means = logs.column(logs.read(log), "train/loss")
    np.testing.assert_array_equal(steps, np.arange(10, stopped + 31, 10))
    np.testing.assert_allclose(means, np.mean(np.reshape(losses, (-1, 10)), 1), rtol=1e-4, atol=1e-6)


def test_other_data_are_refused_when_a_run_goes_on(tmp_path):
    def train(data, steps):
        draw = jax.tree_util.Partial(lambda data, key: data[:3] + sample(key), data)
        return run(Algorithm(init, step), draw, steps, key=jax.random.key(0), folder=tmp_path, progress=False)

    data = jnp.arange(1000.0)
    train(data, 5)
    with pytest.raises(InputError, match="holds a run on other data"):
        train(data.at[999].set(0), 10)
    train(data, 10)


def test_what_was_not_measured_has_no_part_in_a_mean():
    def sometimes(state, batch, key):
        state, metrics = step(state, batch, key)
        there = state["count"] % 2 == 0
        return state, metrics | {"seldom": jnp.where(there, 4.0, jnp.nan), "never": jnp.nan}

    _, history = run(Algorithm(init, sometimes), sample, 10, key=jax.random.key(0), log_every=5, progress=False)
    assert [line["train/seldom"] for line in history] == [4.0, 4.0]
    assert np.isnan(history[0]["train/never"])


def test_which_loss_is_not_finite():
    def broken(state, batch, key):
        return step(state, batch, key)[0], {"loss": jnp.nan, "a/loss": jnp.asarray(0.5), "b/loss": jnp.inf}

    with pytest.raises(
        NonFiniteLoss, match=r"loss is nan at step 1 \(a/loss 0.5, b/loss inf\); at the first step, look for labels"
    ):
        run(Algorithm(init, broken), sample, 10, key=jax.random.key(0), progress=False)


def test_whose_loss_is_not_finite():
    """Of clients, or tasks with heads of their own, by their id; one that is absent has no part in it."""

    def update(shared, row, task, key):
        loss = jnp.where(task.id == 7, jnp.nan, shared * task.support.x.mean())
        return Update(jnp.ones(()), task.support.mask.sum(), loss, {}), row

    def sample(key):
        mask = jnp.ones((3, 2)).at[0].set(0)  # whose task, 7 as well, is absent
        ids = jnp.array([7, 3, 7]).at[2].set(jnp.where(jax.random.bernoulli(key, 0.5), 7, 5))
        return Task(Batch(jnp.ones((3, 2, 1)), jnp.zeros((3, 2)), mask), None, ids)

    algorithm = over_clients(
        lambda key, task: (jnp.zeros(()), jnp.zeros(())), update, mean(), optax.sgd(0.1), num_clients=9
    )
    with pytest.raises(NonFiniteLoss, match=r"loss is nan at step \d+ \(first in task 7\)"):
        run(algorithm, sample, 50, key=jax.random.key(0), progress=False)


def test_losses_far_apart_are_named(capfd):
    def telling(scale):
        def told(state, batch, key):
            state, metrics = step(state, batch, key)
            return state, metrics | {"a/loss": metrics["loss"], "b/loss": scale * metrics["loss"]}

        return Algorithm(init, told)

    for progress in (True, False):
        quiet(20, algorithm=telling(1e-5), progress=progress, log_every=5)
        err = capfd.readouterr().err
        assert err.count("warning: losses lie far apart: a/loss is") == 1 and "a mean follows a/loss." in err
    for near in (1e-3, jnp.nan):  # a task may have had no example yet
        quiet(20, algorithm=telling(near))
        assert "far apart" not in capfd.readouterr().err


def test_a_task_seen_before_a_resume_is_not_named(tmp_path, capfd):
    def early(state, batch, key):
        state, metrics = step(state, batch, key)
        return state, metrics | {"a/loss": 1.0, "b/loss": jnp.where(state["count"] == 3, 1.0, jnp.nan)}

    for steps in (10, 20):
        quiet(steps, algorithm=Algorithm(init, early), log_every=5, folder=tmp_path)
    assert "without an example" not in capfd.readouterr().err


def test_a_task_without_an_example_is_named(capfd):
    def seen_at(step_of_b):
        def told(state, batch, key):
            state, metrics = step(state, batch, key)
            return state, metrics | {"a/loss": 1.0, "b/loss": jnp.where(state["count"] == step_of_b, 1.0, jnp.nan)}

        return Algorithm(init, told)

    quiet(20, algorithm=seen_at(99), log_every=5)
    assert "warning: 20 steps without an example of b, of which nothing is learned." in capfd.readouterr().err
    for late in (3, 18):
        quiet(20, algorithm=seen_at(late), log_every=5)
        assert "without an example" not in capfd.readouterr().err


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    def train(steps):
        return run(Algorithm(init, step), sample, steps, key=jax.random.key(0), folder=tmp_path, progress=False)

    with lock.alone(tmp_path), pytest.raises(InputError, match="another run is at work"):
        train(5)
    assert not (tmp_path / "log.jsonl").exists()
    train(5)
    with pytest.raises(InputError, match="at step 5 already"):
        train(4)
    train(10)  # what ended, well or not, holds nothing

"""What a tired user types: one clear sentence, a non-zero exit, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import metalearn as ml
from experiments import command_line, omniglot, sinusoid
from metalearn.host import logs

SINUSOID, OMNIGLOT = sinusoid, omniglot
ROOT = Path(__file__).parents[2]


def attempt(monkeypatch, capsys, experiment, *arguments):
    """Exit code and standard error of `python -m experiments.… arguments`."""
    monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
    monkeypatch.setattr(command_line, "_prepare_jax", lambda devices: None)  # this process goes on with other tests
    with pytest.raises(SystemExit) as stopped:
        command_line.launch(experiment.PRESETS, experiment.main, experiment.__doc__)
    return stopped.value.code, capsys.readouterr().err


def own_model_not_learner(model, criterion):
    return model


def poisoned(model, criterion):
    """A learner whose predictions are not finite."""
    import optax

    learner = ml.meta.maml(model, criterion, optax.sgd(0.01))
    return learner._replace(train=None, predict=lambda state, x, key=None: learner.predict(state, x) * jnp.nan)


SMALL = ("--steps", "4", "--log-every", "2", "--test-tasks", "2", "--validation-tasks", "2", "--tasks", "2")


@pytest.mark.parametrize(
    ("experiment", "arguments", "said"),
    [
        (SINUSOID, ["dmo"], "did you mean 'demo'?"),
        (SINUSOID, ["demo", "--method", "mamml"], "did you mean 'maml'"),
        (SINUSOID, ["demo", "--method", "no_such_module:learner"], "no_such_module"),
        (SINUSOID, ["demo", "--method", f"{__name__}:no_such_function"], "no_such_function"),
        (SINUSOID, ["demo", "--method", f"{__name__}:own_model_not_learner"], "must return a metalearn Learner"),
        (SINUSOID, ["demo", "--family", "sinusoids"], "did you mean 'sinusoid'"),
        (SINUSOID, ["demo", "--inner", "sdg"], "did you mean 'sgd'?"),
        (SINUSOID, ["demo", "--outer-decay", "lineer"], "did you mean 'linear'"),
        (SINUSOID, ["demo", "--seeds"], "seeds"),
        (SINUSOID, ["demo", "--shots", "0"], "num_support"),
        (SINUSOID, ["demo", "--test-tasks", "1"], "test_tasks"),
        (SINUSOID, ["demo", "--steps", "0"], "num_steps"),
        (SINUSOID, ["demo", "--devices", "0"], "devices must be between 1 and the 8 there are, but is 0"),
        (SINUSOID, ["demo", "--devices", "9"], "devices must be between 1 and the 8 there are, but is 9"),
        (SINUSOID, ["demo", "--folder", "/proc/nowhere"], "cannot be written"),
        (OMNIGLOT, ["maml-5way-2shot"], "did you mean 'maml-5way-5shot'"),
        (OMNIGLOT, ["compare-maml", "--split", "papers"], "split"),
        (OMNIGLOT, ["compare-maml", "--ways", "5000"], "5000"),
        (OMNIGLOT, ["compare-maml", "--shots", "15", "--queries", "6"], "20"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tmp_path, experiment, arguments, said):
    if experiment is OMNIGLOT:
        needs_omniglot()
    small = [] if len(arguments) == 1 else [*SMALL, "--folder", str(tmp_path)]
    code, err = attempt(monkeypatch, capsys, experiment, arguments[0], *small, *arguments[1:])
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in err


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(monkeypatch, capsys, tmp_path):
    code, err = attempt(
        monkeypatch, capsys, SINUSOID, "demo", *SMALL, "--folder", str(tmp_path), "--method", f"{__name__}:poisoned"
    )
    assert code == 3
    assert "step 1" in err
    assert "Traceback" not in err


def test_data_that_is_not_there(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    code, err = attempt(monkeypatch, capsys, OMNIGLOT, "compare-maml")
    assert code == 2
    assert "tfds build omniglot" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_another_configuration_is_refused_and_named(monkeypatch, capsys, tmp_path):
    settings = tiny(tmp_path)
    sinusoid.main(settings)
    capsys.readouterr()
    code, err = attempt(
        monkeypatch, capsys, SINUSOID, "demo", *SMALL, "--beside", "scratch", "--folder", str(tmp_path), "--tasks", "3"
    )
    assert code == 2
    assert "tasks was 2 and is 3" in err


EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if "launch(PRESETS" in path.read_text())
assert "mtl_toy" in EXPERIMENTS


@pytest.mark.parametrize(
    "experiment", [one if one == "omniglot" else pytest.param(one, marks=pytest.mark.slow) for one in EXPERIMENTS]
)
def test_help_imports_no_jax(experiment):
    import subprocess

    look = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try:\n    runpy.run_module('experiments.{experiment}', run_name='__main__')\n"
        "except SystemExit:\n    assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"experiments.{experiment}" in done.stdout


def tiny(folder):
    from dataclasses import replace

    return replace(
        sinusoid.PRESETS["demo"][1], steps=4, log_every=2, test_tasks=2, validation_tasks=2, tasks=2,
        beside=("scratch",), folder=str(folder),
    )  # fmt: skip


def needs_omniglot():
    try:
        ml.data.omniglot()
    except ml.InputError as error:
        pytest.skip(str(error))


COUNTED = """
import collections, runpy, sys
import jax.monitoring
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition("/")[2]]))
runpy.run_module("experiments.sinusoid", run_name="__main__")
print("hits", seen["cache_hits"], "misses", seen["cache_misses"])
"""


@pytest.mark.slow
def test_a_second_start_compiles_nothing(tmp_path):
    def start(folder):
        arguments = ["demo", *SMALL, "--beside", "--folder", str(tmp_path / folder)]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
        ran = subprocess.run(
            [sys.executable, "-c", COUNTED, *arguments], env=environment, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
        _, hits, _, misses = ran.stdout.split()[-4:]
        return int(hits), int(misses), [line["train/loss"] for line in logs.read(tmp_path / folder / "log.jsonl")[:1]]

    _, cold, losses = start("one")
    hits, misses, again = start("two")
    assert cold > 20 and misses == 0 and hits >= cold and losses == again


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_an_experiment_starts_itself_anew_with_huge_pages_and_no_other_program_does(monkeypatch, tmp_path):
    code = (
        "import os, sys; sys.argv.append('--settings'); import experiments.command_line as c; "
        "c.with_huge_pages(); print(os.environ.get('GLIBC_TUNABLES'))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    options = {"capture_output": True, "text": True, "check": True, "timeout": 120}
    assert subprocess.run([sys.executable, "-c", code], env=environment, **options).stdout.strip() == "None"
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "shown.py").write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('line', {str(ROOT / 'experiments' / 'command_line.py')!r})\n"
        "line = u.module_from_spec(spec); spec.loader.exec_module(line)\n"
        "line.with_huge_pages()\nprint(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])\n"
    )
    command = [sys.executable, "-m", "experiments.shown", "one", "--two"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, **options)
    assert run.stdout.strip() == "glibc.malloc.hugetlb=1 ['one', '--two']"
    own = subprocess.run(command, env=environment | {"GLIBC_TUNABLES": "mine=1"}, cwd=tmp_path, **options)
    assert own.stdout.strip() == "mine=1 ['one', '--two']"


@pytest.mark.parametrize(
    ("plugins", "given", "found"),
    [([], None, command_line.CONV4), ([], "--of_the_user", "--of_the_user"), (["jax_plugins"], None, None)],
)
def test_xla_is_told_of_a_cpu_where_there_is_nothing_else(plugins, given, found, monkeypatch):
    from importlib import util

    monkeypatch.setenv("XLA_FLAGS", given or "")  # put back afterwards, whatever is set meanwhile
    if given is None:
        monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(sys, "argv", ["experiment", "demo"])
    monkeypatch.setattr(util, "find_spec", lambda name: name in plugins or None)
    monkeypatch.setattr(command_line, "_prepare_jax", lambda devices: None)
    seen = []
    command_line.launch(
        SINUSOID.PRESETS, lambda settings: seen.append(os.environ.get("XLA_FLAGS")), "", flags=command_line.CONV4
    )
    assert seen == [found]

"""The first step of a preset, from the start of a fresh process to the step's end, with and without a compiled cache.

Cold: the cache is empty; cached: it is that of an earlier process. The command is the preset's own, up to its first
step: of its first method at its first rate, with all its seeds. Data but scikit-learn's digits are made up, so that
neither their preparation nor their reading is measured. Toys and models that start from nothing have no step. In
federated presets it is a round, which with McMahan's CNN is 300 steps for each of ten clients, of one seed or three.

    python -m benchmarks.rows.first_step EXPERIMENT PRESET        is what the processes run
"""

import os
import runpy
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the processes begin as an experiment does, without JAX
    from benchmarks.measure import Options

EXPERIMENTS = (
    *("sinusoid", "omniglot", "digits_federated", "mnist_federated", "shakespeare_federated"),
    *("digits_multitask", "multi_mnist", "omniglot_alphabets"),
)


def presets() -> list[tuple[str, str]]:
    """Every preset that trains."""
    every = ((name, *item) for name in EXPERIMENTS for item in import_module(f"experiments.{name}").PRESETS.items())
    return [(name, preset) for name, preset, (_, s) in every if getattr(s, "method", None) != "scratch"]


def run(row: str, options: "Options") -> dict[str, Any]:
    """Two lines for each preset; three rounds at most."""
    from benchmarks.comparison import compare
    from benchmarks.rows.cold_start import process

    with TemporaryDirectory() as folder:
        lines = []
        for experiment, preset in presets()[:1] if options.quick else presets():
            command = [sys.executable, "-m", "benchmarks.rows.first_step", experiment, preset]
            shared = _environment(Path(folder) / experiment / preset)
            first = process(f"{experiment} {preset}, cold", command, shared)  # fills the cache for the others
            cold = lambda repeats, command=command: _cold(command)  # noqa: E731
            lines += [first._replace(time_step=cold), process(f"{experiment} {preset}, cached", command, shared)]
        few = options._replace(rounds=min(options.rounds, 3))
        return {"setting": {}, **compare(lines, few, warmup=0, ratios=False)}


def first_step(experiment: str, preset: str) -> None:
    """Runs the experiment's command until its first step is done."""
    from experiments import command_line

    launch = command_line.launch

    def launched(presets, work, *arguments, **options):
        launch(presets, lambda settings: _until_first(work, settings), *arguments, **options)

    command_line.launch = launched
    sys.argv = [experiment, preset]
    runpy.run_module(f"experiments.{experiment}", run_name="__main__")


def _until_first(work, settings):
    import metalearn as ml

    run = ml.run

    def one(algorithm, sample, num_steps, *, key, **options):
        run(algorithm, sample, 1, key=key, progress=False)
        raise SystemExit

    ml.run = one
    for name, made_up in _MADE_UP.items():
        setattr(ml.data, name, made_up)
    work(settings)


def _omniglot(split="paper", *, seed=0):
    import metalearn as ml

    counts = (1100, 100, 423)
    alphabets = np.split(np.arange(sum(counts)) % 50, np.cumsum(counts)[:-1])
    return ml.data.images.Splits(
        *(ml.data.ClassImages(np.ones((len(part), 20, 28, 28), np.uint8), group=part) for part in alphabets)
    )


def _mnist():
    return tuple(
        (np.ones((count, 28, 28, 1), np.uint8), np.arange(count, dtype=np.int32) % 10) for count in (60_000, 10_000)
    )


def _multi_mnist(construction, *, seed=0):
    from metalearn.data import TwoDigits

    size, times = (28, 1) if construction == "sener" else (36, 2)
    return tuple(
        TwoDigits(np.ones((times * len(y), size, size, 1), np.uint8), *(np.tile(y, times),) * 2) for _, y in _mnist()
    )


def _shakespeare(*, length, min_characters):
    from metalearn.data import Text

    pieces = np.geomspace(min_characters / length, 16 * min_characters / length, 99).astype(int)
    x = np.arange(pieces.sum() * length, dtype=np.int32).reshape(-1, length) % 65
    names = tuple(map(str, range(99)))
    return Text(x, (x + 1) % 65, np.repeat(np.arange(99, dtype=np.int32), pieces), names, "".join(map(chr, range(65))))


_MADE_UP = {"omniglot": _omniglot, "mnist": _mnist, "multi_mnist": _multi_mnist, "shakespeare": _shakespeare}


def _environment(cache):
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**os.environ, **kept, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def _cold(command):
    from benchmarks.rows.cold_start import process

    with TemporaryDirectory() as folder:
        return process("", command, _environment(Path(folder))).first_s


if __name__ == "__main__":
    first_step(*sys.argv[1:])

"""The first step of a preset, from the start of a fresh process to the step's end, with and without a compiled cache.

Cold: the cache is empty; cached: it is that of an earlier process. Omniglot's images are made up, so that neither its
preparation nor its reading is measured.

    python -m benchmarks.rows.first_step EXPERIMENT PRESET        is what the processes run
"""

import importlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.comparison import compare
from benchmarks.measure import Options
from benchmarks.rows.cold_start import process

PRESETS = (
    ("sinusoid", "demo"),
    *(("omniglot", f"{method}-5way-1shot") for method in ("maml", "fomaml", "anil", "meta-sgd", "reptile")),
    ("omniglot", "maml-20way-1shot"),
    ("omniglot", "protonet-1shot"),
    ("omniglot", "compare-finetune"),
)


def run(row: str, options: Options) -> dict[str, Any]:
    """Two lines for each preset; three rounds at most."""
    with TemporaryDirectory() as folder:
        lines = []
        for experiment, preset in PRESETS[:1] if options.quick else PRESETS:
            command = [sys.executable, "-m", "benchmarks.rows.first_step", experiment, preset]
            shared = _environment(Path(folder) / experiment / preset)
            first = process(f"{experiment} {preset}, cold", command, shared)  # fills the cache for the others
            cold = lambda repeats, command=command: _cold(command)  # noqa: E731
            lines += [first._replace(time_step=cold), process(f"{experiment} {preset}, cached", command, shared)]
        few = options._replace(rounds=min(options.rounds, 3))
        return {"setting": {}, **compare(lines, few, warmup=0, ratios=False)}


def first_step(experiment: str, preset: str) -> None:
    """One step as the preset's command would take it, without a folder."""
    import jax
    import numpy as np

    import metalearn as ml
    from experiments import few_shot

    module = importlib.import_module(f"experiments.{experiment}")
    settings = module.PRESETS[preset][1]

    def made_up(split, seed):
        parts = [ml.data.ClassImages(np.ones((count, 20, 28, 28), np.uint8)) for count in (1100, 100, 423)]
        return ml.data.images.Splits(*parts)

    ml.data.omniglot = made_up
    problem = module.problem(settings)
    joint = settings.method == "finetune"
    sample = (
        problem.joint()
        if joint
        else ml.data.batched(problem.train(settings.ways, settings.shots, settings.queries), settings.tasks)
    )
    ml.run(few_shot.algorithm_of(settings, problem), sample, 1, key=jax.random.key(0), progress=False)


def _environment(cache):
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**os.environ, **kept, "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def _cold(command):
    with TemporaryDirectory() as folder:
        return process("", command, _environment(Path(folder))).first_s


if __name__ == "__main__":
    first_step(*sys.argv[1:])

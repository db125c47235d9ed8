"""What `run` costs beside the steps: its logs, checkpoints and progress, with a folder, over the programs it compiles.

`run_overhead_sinusoid`: the MAML of the row `sinusoid_25` (a step of microseconds), logged every 100 steps as by
default, and saved once, after 80,000: as often as by default, every 30 seconds, where a step takes .38 ms;
`run_overhead_conv4`: that of `maml_conv4`, logged and saved every 10. The ratio is the steps' own time over that of
`run`: .97 is an overhead of 3%. Compilation and the last save are left out.
"""

import contextlib
import io
from tempfile import TemporaryDirectory
from typing import Any

import metalearn as ml
from benchmarks.comparison import compare
from benchmarks.contender import KEY, run_programs
from benchmarks.measure import Contender, Options
from benchmarks.rows import maml, omniglot_sampling, sinusoid


def run(row: str, options: Options) -> dict[str, Any]:
    """`run`, then the steps alone; three or five rounds at most, because every round compiles anew."""
    if row == "run_overhead_sinusoid":
        size: Any = sinusoid.Size()
        algorithm, sample = sinusoid.algorithm_of(size), sinusoid.sample_of(size)
        saved = 200 if options.quick else 80_000
        often, steps, most = {"log_every": 100, "checkpoint_every": saved}, saved + 100, 3
    else:
        size = maml.size_of("maml_conv4", options)
        algorithm, sample = maml.algorithm_of(size), omniglot_sampling.sample_of(size, options.quick)
        often, steps, most = {"log_every": 10, "checkpoint_every": 10}, 30, 5
    measured = steps - often["log_every"]
    bare = run_programs(algorithm, sample, KEY, None, "the steps alone")
    alone = bare._replace(time_step=lambda repeats: bare.time_step(measured))  # as many as are measured of `run`

    def time_run(repeats):
        with TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            _, history = ml.run(algorithm, sample, steps, key=KEY, folder=folder, **often)
        return (history[-1]["time"] - history[0]["time"]) / (history[-1]["step"] - history[0]["step"])

    whole = Contender("run, with a folder", time_run, bare.first_s)
    few = options._replace(rounds=min(options.rounds, most))
    return {"setting": size._asdict() | often, **compare([whole, alone], few, warmup=1)}

"""Cold start, in fresh processes: `import metalearn` and what it cannot be faster than, `--help`, `import torch`."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.comparison import compare
from benchmarks.connection import has_torch
from benchmarks.measure import Contender, Options

ROOT = Path(__file__).parents[2]


def run(row: str, options: Options) -> dict[str, Any]:
    """`import metalearn` first; the peer's interpreter imports torch."""
    commands = {
        "import metalearn": [sys.executable, "-c", "import metalearn"],
        "import jax, flax.linen, optax": [sys.executable, "-c", "import jax, flax.linen, optax"],
        "experiments.omniglot --help": [sys.executable, "-m", "experiments.omniglot", "--help"],
        "experiments.sinusoid --help": [sys.executable, "-m", "experiments.sinusoid", "--help"],
    }
    missing = []
    if has_torch(options.python):
        commands["import torch"] = [options.python, "-c", "import torch"]
    else:
        missing = [{"who": "import torch", "status": "not installed"}]
    result = compare([process(name, command) for name, command in commands.items()], options)
    return {"setting": {}, **result, "entries": [*result["entries"], *missing]}


def process(name: str, command: list[str], environment: dict[str, str] | None = None) -> Contender:
    """A contender whose step is a process from start to end.

    Raises `subprocess.CalledProcessError` where it fails.
    """

    def time_step(repeats=1):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        return time.perf_counter() - start

    return Contender(name, time_step, time_step())

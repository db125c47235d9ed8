"""The peers' process: answers requests, one line of JSON each, in an environment that has PyTorch and needs no JAX.

    python -m benchmarks.peer ROW VARIANT ARRAYS.npz

    {"do": "prepare", "to": FILE.npz}  one step: its loss, and its gradient as named arrays in FILE; the time it took,
                                       compilation included
    {"do": "time"}                     one more step: how long it took, in seconds

The answer has `error` instead where something failed. The process ends with its standard input.
"""

import importlib
import json
import os
import platform
import sys
import time


def main(row: str, variant: str, file: str) -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    serve = None
    for line in sys.stdin:
        try:
            if serve is None:
                serve = _start(row, variant, file)
            answer = serve(json.loads(line))
        except Exception as error:  # whatever a variant cannot do is a result
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


def _start(row, variant, file):
    import numpy as np
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores)
    arrays = {name: array for name, array in np.load(file).items()}
    step = importlib.import_module(f"benchmarks.peers.{row}").prepare(variant, arrays)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}

    def serve(request):
        start = time.perf_counter()
        loss, gradient = step()
        seconds = time.perf_counter() - start
        if request["do"] == "time":
            return {"seconds": seconds}
        np.savez(request["to"], **gradient())
        return {"first_s": seconds, "loss": float(loss), "versions": versions}

    return serve


if __name__ == "__main__":
    main(*sys.argv[1:])

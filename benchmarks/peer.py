"""The peers' process: answers requests, one line of JSON each, in an environment that has PyTorch and needs no JAX.

    python -m benchmarks.peer MODULE VARIANT ARRAYS.npz

    {"do": "prepare", "to": FILE.npz}  one step: its loss, and its direction as named arrays in FILE; the time it took,
                                       compilation included
    {"do": "time", "repeats": N}       N more steps: how long one took, in seconds

The word `one_thread` in a variant is meant for this process, which else uses all cores; what the others mean is said
in MODULE. The answer has `missing` where a package is not installed, and `error` where something failed. The process
ends with its standard input.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time

PACKAGES = ("torch", "higher", "torchopt", "torchjd", "flwr", "ray", "pfl")


def main(module: str, variant: str, file: str) -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    serve = None
    for line in sys.stdin:
        try:
            if serve is None:
                serve = _start(module, variant, file)
            answer = serve(json.loads(line))
        except ModuleNotFoundError as error:
            answer = {"missing" if error.name in PACKAGES else "error": f"ModuleNotFoundError: {error}"}
        except Exception as error:  # whatever a variant cannot do is a result
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


def _start(module, variant, file):
    import numpy as np
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = variant.split("+")
    torch.set_num_threads(1 if "one_thread" in words else cores)  # small products are no faster on several
    variant = "+".join(word for word in words if word != "one_thread")
    arrays = dict(np.load(file).items())
    setting = json.loads(str(arrays.pop("setting")))
    step = importlib.import_module(f"benchmarks.peers.{module}").prepare(variant, setting, arrays)
    known = {name: importlib.metadata.version(name) for name in PACKAGES if name in sys.modules}
    versions = {"python": platform.python_version(), **known, "threads": torch.get_num_threads()}

    def serve(request):
        repeats = request.get("repeats", 1)
        start = time.perf_counter()
        for _ in range(repeats):
            loss, direction = step()
        seconds = (time.perf_counter() - start) / repeats
        if request["do"] == "time":
            return {"seconds": seconds}
        np.savez(request["to"], **direction())
        return {"first_s": seconds, "loss": float(loss), "versions": versions}

    return serve


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Our end of a peer's process: started in another interpreter, asked one thing at a time."""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Peer(NamedTuple):
    """A peer's process: `ask(request, limit) -> answer` and `close()`.

    An answer that has not come after `limit` seconds is `{"error": …}`, and so is every later one.
    """

    ask: Callable[[dict, float], dict]
    close: Callable[[], None]


def has_torch(python: str) -> bool:
    """Whether an interpreter has PyTorch; False as well where there is no such interpreter."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def connect(python: str, row: str, variant: str, arrays: Path) -> Peer:
    """Starts `benchmarks.peer` for one variant of one row."""
    process = subprocess.Popen(
        [python, "-m", "benchmarks.peer", row, variant, str(arrays)],
        cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        bufsize=0, env={**os.environ, "PYTHONWARNINGS": "ignore"}, start_new_session=True,
    )  # fmt: skip

    def ask(request, limit):
        if process.poll() is None:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            answer, end = b"", time.monotonic() + limit
            while not answer.endswith(b"\n"):
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
                if not ready:
                    process.kill()
                    return {"error": f"no answer within {limit:g} s"}
                part = process.stdout.read(65536)
                if not part:
                    break
                answer += part
            if answer:
                return json.loads(answer)
        return {"error": f"the process ended with code {process.wait()}"}

    def close():
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return Peer(ask, close)

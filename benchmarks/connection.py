"""Our end of a peer's process: started in another interpreter, asked one thing at a time."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Peer(NamedTuple):
    """A peer's process: `ask(request, limit) -> answer` and `close()`.

    Where no answer has come after `limit` seconds, or the process has ended, the answer is `{"error": …}`.
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


def connect(python: str, module: str, variant: str, arrays: Path) -> Peer:
    """Starts `benchmarks.peer` for one variant of a module of `benchmarks/peers/`.

    What it compiles is kept beside `arrays`, so it is cold; so are its temporary files, which outlive a killed process.
    """
    settings = {
        "TORCHINDUCTOR_CACHE_DIR": str(arrays.parent / "compiled" / variant),
        "TMPDIR": str(arrays.parent),
        "PYTHONWARNINGS": "ignore",
    }
    process = subprocess.Popen(
        [python, "-m", "benchmarks.peer", module, variant, str(arrays)],
        cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        bufsize=0, env={**os.environ, **settings}, start_new_session=True,
    )  # fmt: skip

    requests, answers = process.stdin, process.stdout
    assert requests is not None
    assert answers is not None

    def ask(request, limit):
        try:
            requests.write(json.dumps(request).encode() + b"\n")
            answer = _line(answers, limit)
        except BrokenPipeError:
            answer = b""
        except TimeoutError:
            stop()
            return {"error": f"no answer within {limit:g} s"}
        if answer.endswith(b"\n"):
            return json.loads(answer)
        return {"error": f"the process ended with code {process.wait()}"}

    def stop():
        if process.poll() is None:  # with whatever compilers it has started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close():
        if requests.closed:
            return
        requests.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            stop()
        answers.close()

    return Peer(ask, close)


def _line(pipe, limit):
    line, end = b"", time.monotonic() + limit
    while not line.endswith(b"\n"):
        if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError
        part = pipe.read(65536)
        if not part:
            break
        line += part
    return line

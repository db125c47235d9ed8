"""What a run measured: records in memory, the same records as JSON lines, and TensorBoard events.

A record is a dictionary with a `step` (the number of steps done) and values that are floats, or lists of floats, one
a seed. Names say the source: `train/loss`, `validation/accuracy`.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn.files import write_whole

Record = dict[str, Any]


class Log(NamedTuple):
    """An open log: `write(record)` appends a line, `sync()` forces all lines to disk, `close()` closes everything."""

    write: Callable[[Record], None]
    sync: Callable[[], None]
    close: Callable[[], None]


def record(step: int, source: str, metrics: Mapping[str, Any]) -> Record:
    """One record from metrics that are scalars or `[S]`."""
    return {"step": step} | {f"{source}/{name}": np.asarray(value).tolist() for name, value in metrics.items()}


def column(history: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps `[N]` and values `[N]` or `[N, S]` of one metric, such as `"train/loss"`."""
    found = [line for line in history if name in line]
    return np.array([line["step"] for line in found], int), np.array([line[name] for line in found], float)


def read(path: str | Path) -> list[Record]:
    """The records of a log; lines that are not whole records (the last, after a crash) are left out."""
    return [line for _, line in _lines(Path(path))]


def resume(path: str | Path, step: int) -> list[Record]:
    """The records up to `step`; later lines and half-written ones are removed from the file."""
    path = Path(path)
    kept = [(text, line) for text, line in _lines(path) if line["step"] <= step]
    write_whole(path, "".join(f"{text}\n" for text, _ in kept))
    return [line for _, line in kept]


def open_log(folder: str | Path, step: int, *, tensorboard: bool = True) -> Log:
    """Opens `folder/log.jsonl` for appending, and event files under `folder/tensorboard` for steps after `step`."""
    file = (Path(folder) / "log.jsonl").open("a")
    events = _events(Path(folder) / "tensorboard", step) if tensorboard else None

    def write(line: Record) -> None:
        file.write(json.dumps(line) + "\n")
        file.flush()
        if events is not None:
            for name, value in line.items():
                _add(events, name, value, line["step"])

    def close() -> None:
        file.close()
        if events is not None:
            events.close()

    return Log(write, lambda: os.fsync(file.fileno()), close)


def _lines(path: Path) -> list[tuple[str, Record]]:
    found = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append((text, line))
    return found


def _events(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("tensorboardX is not installed, so no TensorBoard events are written.", file=sys.stderr)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _add(events: Any, name: str, value: Any, step: int) -> None:
    if name in ("step", "time"):
        return
    if isinstance(value, list):
        for seed, one in enumerate(value):
            events.add_scalar(f"{name}/{seed}", one, step)
    else:
        events.add_scalar(name, value, step)

"""How a run shows that it is alive: a bar on a terminal, a plain line now and then elsewhere, or nothing."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Show = Callable[[int, Mapping[str, Any]], None]  # (steps done, the newest value of each metric)
SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def shown(num_steps: int, start: int, enabled: bool = True) -> Iterator[Show]:
    """Yields a function that shows how far a run is and its newest metrics, on standard error."""
    if not enabled:
        yield lambda step, newest: None
    elif sys.stderr.isatty():
        with _bar(num_steps, start) as show:
            yield show
    else:
        yield _lines(num_steps, start)


def words(newest: Mapping[str, Any]) -> str:
    """`loss 0.123  accuracy 0.9  validation accuracy 0.8  123 steps/s`, seeds as their mean."""
    labels = {
        "train/loss": "loss",
        "train/accuracy": "accuracy",
        "validation/loss": "validation loss",
        "validation/accuracy": "validation accuracy",
        "steps_per_second": "steps/s",
    }
    return "  ".join(f"{label} {np.mean(newest[name]):.4g}" for name, label in labels.items() if name in newest)


@contextlib.contextmanager
def _bar(num_steps: int, start: int) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task("compiling", total=num_steps, completed=start)
        yield lambda step, newest: bar.update(task, completed=step, description=words(newest))


def _lines(num_steps: int, start: int) -> Show:
    began = time.monotonic()
    last = [began]

    def show(step: int, newest: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - last[0] < SECONDS_BETWEEN_LINES and step < num_steps:
            return
        last[0] = now
        left = (now - began) / (step - start) * (num_steps - step) if step > start else 0.0
        print(f"step {step}/{num_steps}  {words(newest)}  {left:.0f} s left", file=sys.stderr, flush=True)

    return show

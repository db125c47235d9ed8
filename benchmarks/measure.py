"""Timing in turns, and the check that comes before it: the same loss and the same direction from the same weights."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-3  # float32, two libraries: relative, for the loss and for the whole direction
# where oneDNN's convolution, which rounds at 1e-5, turns a ReLU or a maximum here and there
LOOSE_TOLERANCE = 1e-2
REST = 0.02  # seconds between two turns, so that one side's waiting threads do not run into the other's turn
TURN = 0.05  # seconds that a turn lasts at least: a step of microseconds is repeated


class Options(NamedTuple):
    """What the command line asked for.

    `python` is the peers' interpreter, `rounds` is how often every contender is timed, `limit` how many seconds a peer
    may take for an answer.
    """

    python: str
    quick: bool = False
    rounds: int = 15
    limit: float = 600.0


class Contender(NamedTuple):
    """One side of a comparison: `time_step(repeats) -> seconds a step`, and what its first step gave.

    `first_s` is how long that took, compilation included. `direction` is what the outer optimizer received, by name;
    where `loss` is None there is nothing to compare. `facts` go into the report as they are.
    """

    name: str
    time_step: Callable[[int], float]
    first_s: float
    loss: float | None = None
    direction: Mapping[str, np.ndarray] = {}
    facts: Mapping[str, Any] = {}


def repeated(step: Callable[[], Any], wait: Callable[[Any], Any] = lambda result: None) -> Callable[[int], float]:
    """`time_step(repeats)` of a step; `wait` is called with what the last repeat returned."""

    def time_step(repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            result = step()
        wait(result)
        return (time.perf_counter() - start) / repeats

    return time_step


def alternate(steps: Mapping[str, Callable[[int], float]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Calls all of `steps` (each returns its seconds) in turns, `warmup + rounds` times; keeps the last `rounds`.

    Every second round goes backwards, so that nobody is always the one who follows the slowest. After the warm-up a
    turn has as many repeats as fit into `TURN` seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    fastest = {name: float("inf") for name in steps}
    for i in range(warmup + rounds):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            time.sleep(REST)
            seconds = steps[name](max(1, int(TURN / max(fastest[name], 1e-6))) if i >= warmup > 0 else 1)
            fastest[name] = min(fastest[name], seconds)
            if i >= warmup:
                times[name].append(seconds)
    return times


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median and the quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": [low, high], "rounds": len(values)}


def relative_error(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """|ours - theirs| / |ours| over all named arrays together; infinite where names or shapes differ."""
    if {name: np.shape(a) for name, a in ours.items()} != {name: np.shape(a) for name, a in theirs.items()}:
        return float("inf")
    off = sum(float(np.sum((np.float64(ours[name]) - theirs[name]) ** 2)) for name in ours)
    size = sum(float(np.sum(np.float64(a) ** 2)) for a in ours.values())
    error = float(np.sqrt(off / size)) if size else float("inf")
    return error if np.isfinite(error) else float("inf")


def check(
    ours: Contender, loss: float, direction: Mapping[str, np.ndarray], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """The relative errors of a loss and a direction against ours (None: not finite), and whether both are tolerable."""
    assert ours.loss is not None
    loss_error = abs(loss - ours.loss) / abs(ours.loss)
    direction_error = relative_error(ours.direction, direction)
    same = bool(loss_error <= tolerance and direction_error <= tolerance)
    errors = {"loss_error": loss_error, "direction_error": direction_error}
    return {name: error if np.isfinite(error) else None for name, error in errors.items()} | {"same": same}

"""Timing in turns, and the check that comes before it: the same loss and the same gradient from the same weights."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from benchmarks.connection import connect, has_torch

TOLERANCE = 1e-3  # float32, two libraries: relative, for the loss and for the whole gradient
REST = 0.02  # seconds between two steps, so that one side's waiting threads do not run into the other's turn


class Options(NamedTuple):
    """What the command line asked for.

    `rounds` is how often every contender is timed, `limit` how many seconds a peer may take for its first step.
    """

    python: str
    quick: bool = False
    rounds: int = 15
    limit: float = 600.0


class Contender(NamedTuple):
    """One side of a comparison: `time_step() -> seconds`, and what its first step, compilation included, gave."""

    name: str
    time_step: Callable[[], float]
    first_s: float
    loss: float
    gradient: Mapping[str, np.ndarray]


def timed(step: Callable[[], Any]) -> float:
    """The seconds that `step`, which must wait for its own results, takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def alternate(steps: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Calls all of `steps` (each returns its seconds) in turns, `warmup + rounds` times; keeps the last `rounds`.

    Every second round goes backwards, so that nobody is always the one who follows the slowest.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(warmup + rounds):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            time.sleep(REST)
            seconds = steps[name]()
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
    ours: Contender, loss: float, gradient: Mapping[str, np.ndarray], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """The relative errors of a loss and a gradient against ours (None: not finite), and whether both are tolerable."""
    loss_error = abs(loss - ours.loss) / abs(ours.loss)
    gradient_error = relative_error(ours.gradient, gradient)
    same = bool(loss_error <= tolerance and gradient_error <= tolerance)
    errors = {"loss_error": loss_error, "gradient_error": gradient_error}
    return {name: error if np.isfinite(error) else None for name, error in errors.items()} | {"same": same}


def side_by_side(
    row: str,
    ours: Contender,
    arrays: Mapping[str, np.ndarray],
    peers: Mapping[str, Sequence[str]],
    options: Options,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Ours against peers, in one run.

    `arrays` are the weights and data, handed over in a temporary file. `peers` has the variants of each peer. Every
    variant is checked and timed a few times; then ours and the best variant of each peer are timed in turns.
    """
    entry = {"who": ours.name, "status": "ok", "first_s": ours.first_s, "loss": ours.loss}
    if not has_torch(options.python):
        times = alternate({ours.name: ours.time_step}, options.rounds)
        missing = [{"who": peer, "status": "not installed"} for peer in peers]
        return {"tolerance": tolerance, "entries": [entry | {"seconds": summary(times[ours.name])}, *missing]}

    open_peers: dict[str, Any] = {}
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            np.savez(file, **dict(arrays))  # type: ignore[arg-type]
            found = [_tried(row, peer, peers[peer], ours, file, options, tolerance, open_peers) for peer in peers]
            steps = {ours.name: ours.time_step}
            steps |= {one["who"]: _time_step(open_peers[one["who"]]) for one in found if one["status"] == "ok"}
            times = alternate(steps, options.rounds)
    finally:
        for peer in open_peers.values():
            peer.close()
    entry["seconds"] = summary(times[ours.name])
    for one in found:
        if one["status"] == "ok":
            theirs = times[one["who"]]
            one["seconds"] = summary(theirs)
            one["ratio"] = summary([a / b for a, b in zip(theirs, times[ours.name], strict=True)])
    return {"tolerance": tolerance, "entries": [entry, *found]}


def _tried(row, name, variants, ours, file, options, tolerance, open_peers):
    """Tries every variant of a peer; the best one's process stays in `open_peers`."""
    tried, best = [], None
    for variant in variants:
        peer = connect(options.python, row, variant, file)
        try:
            result = _one_variant(peer, variant, ours, file.with_name("gradient.npz"), options, tolerance)
            tried.append(result)
            if result["status"] == "ok" and (best is None or result["tuning_s"] < best["tuning_s"]):
                best = result
                peer, open_peers[name] = open_peers.get(name), peer
        finally:
            if peer is not None:
                peer.close()
    if best is None:
        return {"who": name, "status": tried[0]["status"], "tried": tried}
    kept = {key: best[key] for key in ("first_s", "loss", "loss_error", "gradient_error", "versions")}
    return {"who": name, "status": "ok", "variant": best["variant"], **kept, "tried": tried}


def _one_variant(peer, variant, ours, to, options, tolerance):
    result: dict[str, Any] = {"variant": variant}
    answer = peer.ask({"do": "prepare", "to": str(to)}, options.limit)
    if "error" in answer:
        return result | {"status": f"failed: {answer['error']}"}
    with np.load(to) as arrays:
        gradient = dict(arrays)
    checked = check(ours, answer["loss"], gradient, tolerance)
    result |= {**answer, **checked}
    if not result.pop("same"):
        return result | {"status": "other numbers"}
    try:
        times = alternate({"": _time_step(peer)}, 2 if options.quick else 5, warmup=1)[""]
    except RuntimeError as error:
        return result | {"status": f"failed: {error}"}
    return result | {"status": "ok", "tuning_s": float(np.median(times))}


def _time_step(peer):
    def time_step():
        answer = peer.ask({"do": "time"}, 120.0)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["seconds"]

    return time_step

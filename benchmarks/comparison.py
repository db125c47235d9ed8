"""One row: ours beside contenders in this process and peers in theirs, checked first and then timed in turns."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.connection import Peer, connect, has_torch
from benchmarks.floor import Work, floor
from benchmarks.measure import TOLERANCE, Contender, Options, alternate, check, summary

HOPELESS = 2.0  # a variant that takes so many times the best one's time is timed once: slow rows have slow variants


class Peers(NamedTuple):
    """What is asked of the peers' processes.

    `module` is the file in `benchmarks/peers/`, `variants` are the ways of each peer, by its name, of which the best
    is kept; `setting` and `arrays` (weights and data) are handed over. Those named in `alone` keep the cores busy
    while they wait, so they are started and timed after all others.
    """

    module: str
    variants: Mapping[str, Sequence[str]]
    setting: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    alone: Sequence[str] = ()


def with_and_without(variants: Mapping[str, Sequence[str]], word: str) -> dict[str, tuple[str, ...]]:
    """Every variant of every peer as it is, and with one word more."""
    return {who: (*tried, *(f"{variant}+{word}" for variant in tried)) for who, tried in variants.items()}


def compare(
    contenders: Sequence[Contender],
    options: Options,
    peers: Peers | None = None,
    work: Work | Mapping[str, Work] | None = None,
    tolerance: float = TOLERANCE,
    *,
    warmup: int = 2,
    ratios: bool = True,
) -> dict[str, Any]:
    """The first contender against all others: `{"floor", "tolerance", "entries"}`.

    Every variant of a peer is checked and timed a few times; then all contenders and the best variant of each peer
    are timed in turns. `ratio` is somebody's time over that of the first contender; there is none where `ratios` is
    False, because the lines do different things. `work` is that of everybody's step, or of several lines by name.
    """
    ours, *others = contenders
    works = work if isinstance(work, Mapping) else {one.name: work for one in contenders if work is not None}
    floors = {one: floor(one, options.quick) for one in dict.fromkeys(works.values())}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        entries = [_entry(ours), *(_checked(other, ours, tolerance) for other in others)]
        steps = {one.name: one.time_step for one in contenders}
        together, alone = [], []
        if peers is not None:
            start = _starter(peers, ours, folder, options, tolerance, stack)
            together = [start(name) for name in peers.variants if name not in peers.alone]
            entries += [entry for entry, _ in together]
            steps |= {entry["who"]: _time_step(peer, options.limit) for entry, peer in together if peer is not None}
            alone = [name for name in peers.variants if name in peers.alone]
        timed = {entry["who"] for entry in entries if entry["status"] == "ok"}
        times = alternate({who: step for who, step in steps.items() if who in timed}, options.rounds, warmup)
        for peer in (peer for _, peer in together if peer is not None):
            peer.close()
        for name in alone:
            entry, peer = start(name)
            entries.append(entry)
            if peer is not None:
                times |= alternate({name: _time_step(peer, options.limit)}, options.rounds, warmup)
                peer.close()
    if ours.name.startswith("metalearn, "):  # ways of ours: the faster comes first
        ways = [entry for entry in entries if entry["who"].startswith("metalearn, ") and entry["status"] == "ok"]
        ways.sort(key=lambda entry: float(np.median(times[entry["who"]])))
        entries = ways + [entry for entry in entries if entry not in ways]
        ours = next(one for one in contenders if one.name == entries[0]["who"])
    for entry in entries:
        if entry["status"] == "ok":
            entry["seconds"] = summary(times[entry["who"]])
            if ratios and entry["who"] != ours.name:
                entry["ratio"] = summary([a / b for a, b in zip(times[entry["who"]], times[ours.name], strict=True)])
        if entry["who"] in works and entry["status"] == "ok":
            entry["times_floor"] = entry["seconds"]["median"] / floors[works[entry["who"]]]["seconds"]
    return {"floor": floors.get(works.get(ours.name)), "tolerance": tolerance, "entries": entries}


def _entry(one: Contender) -> dict[str, Any]:
    loss = {} if one.loss is None else {"loss": one.loss}
    return {"who": one.name, "status": "ok", "first_s": one.first_s, **loss, **one.facts}


def _checked(other, ours, tolerance):
    if ours.loss is None or other.loss is None:
        return _entry(other)
    result = _entry(other) | check(ours, other.loss, other.direction, tolerance)
    return result if result.pop("same") else result | {"status": "other numbers"}


def _starter(peers, ours, folder, options, tolerance, stack) -> Callable[[str], tuple[dict[str, Any], Peer | None]]:
    if jax.default_backend() != "cpu":
        return lambda name: ({"who": name, "status": "no line: peers run on the CPU, and ours did not"}, None)
    if not has_torch(options.python):
        return lambda name: ({"who": name, "status": "not installed"}, None)
    file = folder / "arrays.npz"
    np.savez(file, setting=json.dumps(dict(peers.setting)), **dict(peers.arrays))

    def start(name):
        # a trial compiles nothing at the peers: that takes longer than all the rest of it
        tried = [v for v in peers.variants[name] if not (options.quick and "compile" in v)]
        return _best(peers.module, name, tried, ours, file, options, tolerance, stack)

    return start


def _best(module, name, variants, ours, file, options, tolerance, stack):
    """Tries every variant of a peer; the best one's process stays open until `stack` is closed."""
    tried, best, kept = [], None, None
    for variant in variants:
        peer = connect(options.python, module, variant, file)
        stack.callback(peer.close)
        enough = float("inf") if best is None else HOPELESS * best["tuning_s"]
        result = _one_variant(peer, variant, ours, file.with_name("direction.npz"), options, tolerance, enough)
        tried.append(result)
        if result["status"] == "ok" and (best is None or result["tuning_s"] < best["tuning_s"]):
            best, kept, peer = result, peer, kept
        if peer is not None:
            peer.close()
        if result["status"] == "not installed":
            return {"who": name, "status": "not installed"}, None
    if best is None:
        return {"who": name, "status": tried[0]["status"], "tried": tried}, None
    facts = {key: best[key] for key in ("first_s", "loss", "loss_error", "direction_error", "versions")}
    return {"who": name, "status": "ok", "variant": best["variant"], **facts, "tried": tried}, kept


def _one_variant(peer, variant, ours, to, options, tolerance, enough):
    result: dict[str, Any] = {"variant": variant}
    answer = peer.ask({"do": "prepare", "to": str(to)}, options.limit)
    if "missing" in answer:
        return result | {"status": "not installed"}
    if "error" in answer:
        return result | {"status": f"failed: {answer['error']}"}
    with np.load(to) as arrays:
        direction = dict(arrays)
    result |= {**answer, **check(ours, answer["loss"], direction, tolerance)}
    if not result.pop("same"):
        return result | {"status": "other numbers"}
    try:
        times = tuning_times(_time_step(peer, options.limit), 2 if options.quick else 5, enough)
    except RuntimeError as error:
        return result | {"status": f"failed: {error}"}
    return result | {"status": "ok", "tuning_s": float(np.median(times))}


def tuning_times(time_step: Callable[[int], float], rounds: int, enough: float) -> list[float]:
    """So many seconds of one variant, or a single one where it is more than `enough`."""
    once = alternate({"": time_step}, 1, warmup=1)[""]
    return once if once[0] > enough else once + alternate({"": time_step}, rounds - 1, warmup=1)[""]


def _time_step(peer, limit):
    def time_step(repeats):
        answer = peer.ask({"do": "time", "repeats": repeats}, limit)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["seconds"]

    return time_step

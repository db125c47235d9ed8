"""The guard against getting slower: ratios of two runs on one machine; absolute times are never compared."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ALLOWED = 0.3  # the fraction by which a peer's time over ours may fall


def earlier(place: Path, quick: bool) -> dict[str, Any]:
    """The report in a file; of a folder every row's newest, with the processor that it was measured on and the highest
    peak of its run, for a long benchmark may be run in parts.

    Raises `ValueError` where there is none, or where one of the two is a trial and the other is not.
    """
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    reports = []
    for file in files:
        try:
            reports.append(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read ({error})") from error
    if not reports:
        raise ValueError(f"there is no report in {place} to compare with")
    if any(report["quick"] != quick for report in reports):
        raise ValueError("a run with --quick can be compared only with another run with --quick")
    rows = {}
    for report in sorted(reports, key=lambda one: one["date"]):
        floors = [row["floor"] for row in report["rows"].values() if row.get("floor")]
        about = {
            "cpu": report.get("machine", {}).get("cpu", ""),
            "peak": max((floor.get("peak_flops_per_s", 0.0) for floor in floors), default=0.0),
        }
        rows |= {name: row | about for name, row in report["rows"].items()}
    return max(reports, key=lambda one: one["date"]) | {"rows": rows}


def elsewhere(report: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A sentence for every row that was measured on another processor: what is compared with it may say little."""
    here = report.get("machine", {}).get("cpu", "")
    return [
        f"{row}: the committed ratios are of {was!r}, and this is {here!r}."
        for row in report["rows"]
        if (was := before["rows"].get(row, {}).get("cpu", here)) != here
    ]


class Guarded(NamedTuple):
    """A ratio of two figures of one run, and when it is too bad: where it is worse than what was committed by more than
    a fraction or, if it has a `bound` of its own, beyond that."""

    what: str
    ratio: float
    rises: bool = False  # whether it is worse when it rises
    bound: float | None = None


def peers_ratio(entry: dict[str, Any], ours: dict[str, Any]) -> float:
    """A peer's time over ours, at the peer's best: in turns, or when it was tuned by itself, which some are slower than
    in turns with others."""
    tuned = [one["tuning_s"] for one in entry.get("tried", []) if one.get("variant") == entry["variant"]]
    if not tuned or "seconds" not in entry:
        return entry["ratio"]["median"]
    return min(entry["ratio"]["median"], min(tuned) / ours["seconds"]["median"])


def guarded(row: str, result: dict[str, Any]) -> Iterator[Guarded]:
    """What is compared of a row; of two ways of ours nothing, for one may become faster."""
    if not result["entries"] or "seconds" not in result["entries"][0]:
        return
    ours, *others = result["entries"]
    lines = {entry["who"]: entry for entry in result["entries"]}
    if "times_floor" in ours and not row.startswith("curve"):
        yield Guarded("the time over the floor", ours["times_floor"], rises=True)
    for entry in others:
        who, what = entry["who"], f"the ratio of {entry['who']!r}"
        if "ratio" not in entry:
            continue
        ratio = entry["ratio"]["median"]
        if "variant" in entry:
            yield Guarded(what, peers_ratio(entry, ours))
        elif row.startswith(("multitask_weights", "multitask_methods")) or who.endswith("--help"):
            yield Guarded(what, ratio, rises=True)
        elif (row, who.split(" ")[0]) in (("population", "a"), ("omniglot_sampling", "NumPy,")):
            yield Guarded(what, ratio)  # a whole round beside selection and gather, samplers of NumPy beside ours
        elif row.startswith("seeds") and who.endswith("in turn"):
            yield Guarded(what, ratio)
        elif row.startswith("run_overhead"):
            yield Guarded(what, ratio, bound=0.97)
        elif who.startswith("import jax"):
            yield Guarded(what, ratio, bound=1 / 1.15)
    if row == "curve_tasks":
        for count in (16, 64, 256):
            if {"tasks 8", f"tasks {count}"} <= set(lines):
                each = [lines[f"tasks {n}"]["seconds"]["median"] / n for n in (count, 8)]
                yield Guarded(f"the time per task with {count} tasks over that with 8", each[0] / each[1], True, 1.2)
    if row == "curve_steps_remat" and {"steps 8", "steps 64"} <= set(lines):
        memory = lines["steps 64"]["memory_bytes"] / lines["steps 8"]["memory_bytes"]
        yield Guarded("the memory of 64 steps over that of 8", memory, True, 2.5)
    if row == "first_step":
        for who, entry in lines.items():
            cold = lines.get(who.removesuffix("cached") + "cold")
            if who.endswith(", cached") and cold is not None:
                cached = entry["seconds"]["median"] / cold["seconds"]["median"]
                yield Guarded(f"the time of {who!r} over that of an empty cache", cached, rises=True)


def falls(report: dict[str, Any], before: dict[str, Any], allowed: float = ALLOWED) -> list[str]:
    """A sentence for every ratio that is worse by more than the allowed fraction or beyond its bound, and for everybody
    whom a row has lost: a guard that has compared nothing has found nothing."""
    found = []
    for row, result in report["rows"].items():
        old = {one.what: one for one in guarded(row, before["rows"].get(row, {"entries": []}))}
        new = {one.what: one for one in guarded(row, result)}
        untimed = [one for one in result["entries"] if one.get("status", "ok") != "ok"]
        gone = {f"the ratio of {one['who']!r}": f"it is {one['status']}" for one in untimed}
        for what, was in old.items():
            if what not in new:
                found.append(f"{row}: {what} was {was.ratio:.3g}, and now {gone.get(what, 'there is none')}.")
                continue
            now = new[what]
            bound = now.bound or was.ratio * (1 + allowed if now.rises else 1 - allowed)
            if now.ratio > bound if now.rises else now.ratio < bound:
                verb = "rose" if now.rises else "fell"
                than = f"beyond {bound:.3g}" if now.bound else f"by more than {allowed:.0%}"
                found.append(f"{row}: {what} {verb} from {was.ratio:.3g} to {now.ratio:.3g}, {than}.")
    return found


def failures(report: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """A sentence for everybody who computed other numbers or failed, and did not so before."""
    known = {} if before is None else before["rows"]
    return [
        f"{row}: {entry['who']!r}: {entry['status']}."
        for row, result in report["rows"].items()
        for entry in result["entries"]
        if not entry["status"].startswith(("ok", "not installed", "no line"))
        and (entry["who"], entry["status"])
        not in [(one["who"], one.get("status")) for one in known.get(row, {"entries": []})["entries"]]
    ]

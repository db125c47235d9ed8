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


class Limit(NamedTuple):
    """Whether a ratio is worse when it rises, and the fraction by which it may."""

    rises: bool
    allowed: float


def limit(row: str, entry: dict[str, Any], allowed: float = ALLOWED) -> Limit | None:
    """What guards a line; None where a change of it says nothing, such as of two ways of ours."""
    who = entry["who"]
    if "variant" in entry:
        return Limit(False, allowed)
    if row.startswith(("multitask_weights", "multitask_methods")) or who.endswith("--help"):
        return Limit(True, allowed)
    if (row, who.split(" ")[0]) in (("population", "a"), ("omniglot_sampling", "NumPy,")):
        return Limit(False, allowed)  # a whole round beside selection and gather, samplers of NumPy beside ours
    if row.startswith("run_overhead"):
        return Limit(False, 0.03)
    if who.startswith("import jax"):
        return Limit(False, 0.15)
    return None


def peers_ratio(entry: dict[str, Any], ours: dict[str, Any]) -> float:
    """A peer's time over ours, at the peer's best: in turns, or when it was tuned by itself, which some are slower than
    in turns with others."""
    tuned = [one["tuning_s"] for one in entry.get("tried", []) if one.get("variant") == entry["variant"]]
    if not tuned or "seconds" not in entry:
        return entry["ratio"]["median"]
    return min(entry["ratio"]["median"], min(tuned) / ours["seconds"]["median"])


def falls(report: dict[str, Any], before: dict[str, Any], allowed: float = ALLOWED) -> list[str]:
    """A sentence for every ratio that is worse by more than the allowed fraction, and for everybody whom a row has lost
    without a word; a line such as 'not installed' is one."""
    old, new = dict(_ratios(before)), dict(_ratios(report))
    entries = {(row, entry["who"]): entry for row, result in report["rows"].items() for entry in result["entries"]}
    found = [
        f"{row}: there is no line of {who!r} any more; its ratio was {ratio:.3g}."
        for (row, who), ratio in old.items()
        if row in report["rows"] and (row, who) not in entries
    ]
    for (row, who), ratio in new.items():
        bound = limit(row, entries[row, who], allowed)
        if bound is None or (row, who) not in old:
            continue
        was = old[row, who]
        if ratio > (1 + bound.allowed) * was if bound.rises else ratio < (1 - bound.allowed) * was:
            verb = "rose" if bound.rises else "fell"
            found.append(
                f"{row}: the ratio of {who!r} {verb} from {was:.3g} to {ratio:.3g}, by more than {bound.allowed:.0%}."
            )
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


def _ratios(report) -> Iterator[tuple[tuple[str, str], float]]:
    for row, result in report["rows"].items():
        for entry in result["entries"]:
            if "ratio" in entry:
                ours = result["entries"][0]
                yield (
                    (row, entry["who"]),
                    (peers_ratio(entry, ours) if "variant" in entry else entry["ratio"]["median"]),
                )

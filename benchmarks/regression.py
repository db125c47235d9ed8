"""The guard against getting slower: ratios of two runs on one machine; absolute times are never compared."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ALLOWED = 0.3  # the fraction by which a ratio may fall


def earlier(place: Path, quick: bool) -> dict[str, Any]:
    """The report in a file; of a folder every row's newest, with the processor that it was measured on, for a long
    benchmark may be run in parts.

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
    reports.sort(key=lambda one: one["date"])
    cpu = [report.get("machine", {}).get("cpu", "") for report in reports]
    rows = {name: row | {"cpu": on} for report, on in zip(reports, cpu) for name, row in report["rows"].items()}
    return reports[-1] | {"rows": rows}


def elsewhere(report: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """A sentence for every row that was measured on another processor: what is compared with it may say little."""
    here = report.get("machine", {}).get("cpu", "")
    return [
        f"{row}: the committed ratios are of {was!r}, and this is {here!r}."
        for row in report["rows"]
        if (was := before["rows"].get(row, {}).get("cpu", here)) != here
    ]


def falls(report: dict[str, Any], before: dict[str, Any], allowed: float = ALLOWED) -> list[str]:
    """A sentence for every ratio that fell by more than the allowed fraction, and for everybody whom a row has lost
    without a word; a line such as 'not installed' is one."""
    old, new = dict(_ratios(before)), dict(_ratios(report))
    named = {(row, entry["who"]) for row, result in report["rows"].items() for entry in result["entries"]}
    lost = [
        f"{row}: there is no line of {who!r} any more; its ratio was {ratio:.3g}."
        for (row, who), ratio in old.items()
        if row in report["rows"] and (row, who) not in named
    ]
    return lost + [
        f"{row}: the ratio of {who!r} fell from {old[row, who]:.3g} to {ratio:.3g}, by more than {allowed:.0%}."
        for (row, who), ratio in new.items()
        if (row, who) in old and ratio < (1 - allowed) * old[row, who]
    ]


def _ratios(report) -> Iterator[tuple[tuple[str, str], float]]:
    for row, result in report["rows"].items():
        for entry in result["entries"]:
            if "ratio" in entry:
                yield (row, entry["who"]), entry["ratio"]["median"]

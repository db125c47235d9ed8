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


def falls(report: dict[str, Any], before: dict[str, Any], allowed: float = ALLOWED) -> list[str]:
    """A sentence for every ratio that is in both and fell by more than the allowed fraction."""
    old = dict(_ratios(before))
    return [
        f"{row}: the ratio of {who!r} fell from {old[row, who]:.3g} to {new:.3g}, by more than {allowed:.0%}."
        for (row, who), new in _ratios(report)
        if (row, who) in old and new < (1 - allowed) * old[row, who]
    ]


def _ratios(report) -> Iterator[tuple[tuple[str, str], float]]:
    for row, result in report["rows"].items():
        for entry in result["entries"]:
            if "ratio" in entry:
                yield (row, entry["who"]), entry["ratio"]["median"]

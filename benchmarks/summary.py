"""The README's table, from committed reports: every row's newest.

python -m benchmarks.summary [FILE or folder]
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.regression import earlier, peers_ratio

NAMES = {
    "torch, loop over tasks": "PyTorch loop", "torch, loop over clients": "PyTorch loop",
    "torch.func, vmap over tasks": "torch.func.vmap", "torch.func, vmap over clients": "torch.func.vmap",
}  # fmt: skip

LETTERS = "ᵃᵇᶜᵈᵉ"


def markdown(report: dict[str, Any]) -> str:
    """A line for each row that has peers: our time, that on one device where a device a core was faster, how far it is
    from the floor, and every peer's time over ours; letters say on which processor."""
    lines = ["| row | ours, ms | on one device | times the floor | peers: their time over ours, at their best |",
             "|---|---|---|---|---|"]  # fmt: skip
    shown = {name: row for name, row in report["rows"].items() if _peers(row) and row["entries"][0]["status"] == "ok"}
    cpus = list(dict.fromkeys(row.get("cpu", "") for row in shown.values()))
    for name, row in shown.items():
        ours, *others = row["entries"]
        floor = f"{_times_floor(row):.1f}" if "times_floor" in ours else ""
        alone = next((one for one in others if one["who"].endswith("one device")), None)
        alone = _ms(alone) if alone is not None and ours["who"].endswith("a device a core") else ""
        mark = f" {LETTERS[cpus.index(row['cpu'])]}" if len(cpus) > 1 else ""
        peers = ", ".join(_peer(entry, ours) for entry in _peers(row))
        lines.append(f"| `{name}`{mark} | {_ms(ours)} | {alone} | {floor} | {peers} |")
    legend = [f"{LETTERS[i]}: {cpu}." for i, cpu in enumerate(cpus)] if len(cpus) > 1 else []
    return "\n".join([*lines, *(["", " ".join(legend)] if legend else [])])


def _peers(row):
    return [entry for entry in row["entries"][1:] if "variant" in entry or "tried" in entry]


def _ms(entry):
    return _digits(1e3 * entry["seconds"]["median"])


def _times_floor(row):
    """By the highest peak of the run, for one measurement may be disturbed."""
    times, floor = row["entries"][0]["times_floor"], row.get("floor") or {}
    peak = floor.get("peak_flops_per_s")
    if not peak or row.get("peak", 0) <= peak or floor["seconds"] > 1.001 * floor["flops"] / peak:
        return times
    return times * row["peak"] / peak


def _peer(entry, ours):
    who = NAMES.get(entry["who"], entry["who"])
    if entry["status"] != "ok":
        return f"{who}: {entry['status']}"
    words = ", ".join(entry["variant"].split("+")[1:]).replace("_", " ")
    return f"{who}{f' ({words})' if words else ''} {_digits(peers_ratio(entry, ours), 2)}×"


def _digits(value, digits=3):
    """So many digits, and no exponent: 12.3, 540, 1.0."""
    whole = len(f"{value:.0f}") if value >= 1 else 1
    return f"{value:,.{max(0, digits - whole)}f}"


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    print(markdown(earlier(place, quick=False)))

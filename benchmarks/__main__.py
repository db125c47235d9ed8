"""Measures rows side by side with their peers, prints a table and writes JSON.

Peers run in an interpreter of their own (`python3 -m venv peers && peers/bin/pip install torch==2.13.0 numpy`), on the
same cores, in the same run, in turns; both sides are first checked to compute the same loss and the same gradient.
Times are of one step: medians, with quartiles; `first` is the first step, compilation included. `ratio` is a peer's
time over ours. A peer that is missing has a row that says so. Run it on a machine that does nothing else.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.rows import ROWS


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where a peer computed other numbers or failed in every variant, else 0."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, help="the JSON file; by default runs/benchmarks/DATE.json")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds and variants: a trial")
    parser.add_argument("--rounds", type=int, help="how often each is timed; by default 15, and 3 with --quick")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a peer's first step may take")
    parser.add_argument(
        "--peer-python", default=os.environ.get("METALEARN_PEER_PYTHON", sys.executable),
        help="the peers' interpreter; by default $METALEARN_PEER_PYTHON, else this one",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error(f"--rounds must be at least 1, but is {chosen.rounds}")

    from benchmarks.measure import Options

    options = Options(chosen.peer_python, chosen.quick, chosen.rounds or (3 if chosen.quick else 15), chosen.limit)
    now = datetime.datetime.now(datetime.UTC)
    report = {
        "date": now.isoformat(timespec="seconds"),
        "quick": chosen.quick,
        "machine": machine(),
        "versions": versions(),
    }
    report["rows"] = {name: importlib.import_module(f"benchmarks.rows.{name}").run(options) for name in chosen.only}
    out = chosen.out or Path("runs/benchmarks") / f"{now:%Y%m%d-%H%M%S}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    print(f"written: {out}")
    entries = [entry for row in report["rows"].values() for entry in row["entries"]]
    return int(any(entry["status"] not in ("ok", "not installed") for entry in entries))


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, and how busy the machine was before."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores,
        "system": platform.system(),
        "load_before": load,
    }


def versions() -> dict[str, str]:
    """Ours; a peer's are in its entry."""
    packages = ("metalearn", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    place = report["machine"]
    lines = [f"{place['cpu']}, {place['cores']} cores, {report['date']}, jax {report['versions']['jax']}"]
    if report["quick"]:
        lines.append("--quick: small sizes, a trial and not a measurement")
    elif place["load_before"] is not None and place["load_before"] > 0.5:
        lines.append(f"the machine was busy (load {place['load_before']:.1f}): these times are not to be trusted")
    for name, row in report["rows"].items():
        lines += ["", f"{name}  ({', '.join(f'{key} {value:g}' for key, value in row['setting'].items())})"]
        lines += [f"  {'':<30} {'ms a step':>10} {'(quartiles)':>17} {'ratio':>6} {'first, s':>9} {'error':>8}"]
        lines += [_line(entry) for entry in row["entries"]]
    return "\n".join(lines)


def _line(entry: dict[str, Any]) -> str:
    tried = [_tried(one, entry.get("variant")) for one in entry.get("tried", [])]
    if entry["status"] != "ok":
        return "\n".join([f"  {entry['who']:<30} {entry['status']}", *tried])
    low, high = (f"{1e3 * value:.3g}" for value in entry["seconds"]["quartiles"])
    median = f"{1e3 * entry['seconds']['median']:.4g}"
    compared = ""
    if "ratio" in entry:
        compared = f"{entry['ratio']['median']:.2f}"
    elif "share" in entry:
        compared = f"{entry['share']['median']:.2%}"
    error = f"{entry['gradient_error']:.0e}" if "gradient_error" in entry else ""
    line = (
        f"  {entry['who']:<30} {median:>10} {f'({low}–{high})':>17} {compared:>6} {entry['first_s']:>9.2f} {error:>8}"
    )
    return "\n".join([line, *tried])


def _tried(one: dict[str, Any], kept: str | None) -> str:
    result = f"{1e3 * one['tuning_s']:.3g} ms" if one["status"] == "ok" else one["status"]
    return f"      {'kept' if one['variant'] == kept else 'tried'}: {one['variant']}, {result}"


if __name__ == "__main__":
    raise SystemExit(main())

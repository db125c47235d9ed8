"""Measures rows side by side with their peers, prints a table and writes JSON.

Peers run in an environment of their own, whose interpreter `--peer-python` names:

    python3 -m venv peers && peers/bin/pip install -r benchmarks/peers/requirements.txt

(`requirements-federated.txt` adds Flower and pfl-research, for the rows `rounds_*`), on the same cores, in one run and
in turns; both sides are first checked to compute the same loss and the same direction (what the outer optimizer
receives). Times are of one step: medians, with quartiles; `first` is the first step, compilation included. `ratio` is
that line's time over our first line's. The floor is what the matrix products alone would take at the speed measured in
the same run (or the unavoidable copying, where that takes longer). A peer that is missing has a line that says so. Run
it on a machine that does nothing else.
"""

import argparse
import datetime
import importlib
import json
import os
import sys
from pathlib import Path

from benchmarks.rows import NO_PEERS, ROWS

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where a peer computed other numbers or failed in every variant, unless it did so in the report of
    `--check`, or where that found a fall; else 0."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}"
    )
    parser.add_argument("--out", type=Path, help="the JSON file; by default runs/benchmarks/DATE.json")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds, nothing compiled at the peers")
    parser.add_argument("--rounds", type=int, help="how often each is timed; by default 15, and 3 with --quick")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a peer may take for one answer")
    parser.add_argument(
        "--check", nargs="?", type=Path, const=RESULTS, metavar="FILE",
        help="compare ratios with FILE, by default with every row's newest in benchmarks/results; fail where one fell",
    )  # fmt: skip
    parser.add_argument(
        "--peer-python", default=os.environ.get("METALEARN_PEER_PYTHON", sys.executable),
        help="the peers' interpreter; by default $METALEARN_PEER_PYTHON, else this one",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error(f"--rounds must be at least 1, but is {chosen.rounds}")

    from benchmarks import regression

    try:
        earlier = None if chosen.check is None else regression.earlier(chosen.check, chosen.quick)
    except ValueError as error:
        parser.error(f"--check: {error}")

    from benchmarks.environment import commit, machine, make_cores_devices, versions, wait_until_idle
    from benchmarks.measure import Options
    from benchmarks.table import row_lines, table

    make_cores_devices()
    options = Options(chosen.peer_python, chosen.quick, chosen.rounds or (3 if chosen.quick else 15), chosen.limit)
    if not chosen.quick:
        wait_until_idle()
    now = datetime.datetime.now(datetime.UTC)
    report = {
        "date": now.isoformat(timespec="seconds"),
        "quick": chosen.quick,
        "machine": machine(),
        "versions": versions() | commit(),
        "rows": {},
    }
    out = chosen.out or Path("runs/benchmarks") / f"{now:%Y%m%d-%H%M%S}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    print(table(report))
    for name in chosen.only:
        row = importlib.import_module(f"benchmarks.rows.{ROWS[name]}").run(name, options)
        row["entries"] += [{"who": who, "status": f"no line: {why}"} for who, why in NO_PEERS.get(name, {}).items()]
        report["rows"][name] = row
        out.write_text(json.dumps(report, indent=2) + "\n")  # after every row: a long run that is stopped keeps them
        print(row_lines(name, report["rows"][name]), flush=True)
    print(f"\nwritten: {out}")
    wrong = regression.failures(report, earlier)
    falls = [] if earlier is None else regression.falls(report, earlier)
    notes = [] if earlier is None else regression.elsewhere(report, earlier)
    for sentence in [*notes, *wrong, *falls]:
        print(sentence, file=sys.stderr)
    return int(bool(wrong or falls))


if __name__ == "__main__":
    from experiments.command_line import with_huge_pages

    with_huge_pages()  # peers, which are started from here, have the same setting
    raise SystemExit(main())

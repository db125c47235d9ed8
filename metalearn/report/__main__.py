"""`python -m metalearn.report RUN [RUN …] [--out DIR] [--against METHOD]`"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metalearn.core import InputError
from metalearn.report._report import read_runs, report
from metalearn.report.terminal import print_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report, prints its table, and returns the exit code: 2, after one sentence, for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m metalearn.report",
        description="Tables (Markdown, LaTeX, CSV), learning and adaptation curves, and BibTeX from run folders.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write; the run folder or ./report")
    parser.add_argument("--against", metavar="METHOD", help="show differences to this method, paired by test task")
    asked = parser.parse_args(arguments)
    try:
        written = report(asked.runs, asked.out, against=asked.against)
        rows, _ = read_runs(asked.runs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rows:
        print_table(rows, against=asked.against)
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Results as tables, one a metric: Markdown, LaTeX and CSV. What is the same in every row goes into the caption."""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from metalearn.report.differences import Difference, differences
from metalearn.report.results import COUNTS, FLAGS, NUMBERS, TEXTS, Row

NONE = "–"
METRICS = {"accuracy": "Accuracy (%)", "mse": "Mean squared error", "loss": "Loss"}


class Table(NamedTuple):
    """A table as text: `cells[r][c]`, under `titles[c]`; `names[c]` says which field of a row column c shows."""

    metric: str
    caption: str
    names: list[str]
    titles: list[str]
    cells: list[list[str]]
    cites: list[str | None]


class Setting(NamedTuple):
    """A field that goes into the caption where it is the same in all rows; `phrase` says it there. A share is shown in
    percent."""

    name: str
    title: str
    phrase: Callable[[Any, Row], str]
    share: bool = False


def _counted(count: int, what: str, plural: str | None = None) -> str:
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def _step(row: Row) -> str:
    return "round" if row.clients else "outer step"


def _per(count: int, row: Row, what: str, plural: str) -> str:
    return _counted(count, what, plural) + (" a class" if row.ways else "")


BEFORE = (
    Setting("run", "run", lambda value, row: ""),
    Setting("ways", "ways", lambda value, row: f"{value}-way"),
    Setting("shots", "shots", lambda value, row: f"{value}-shot"),
    Setting("adapt_steps", "steps", lambda value, row: _counted(value, "adaptation step")),
)
AFTER = (
    Setting("transductive", "trans.", lambda value, row: "transductive" if value else "not transductive"),
    Setting("split", "split", lambda value, row: f"{value} split"),
    Setting("rotations", "rot.", lambda value, row: "with rotated classes" if value else "without rotated classes"),
    Setting("queries", "queries", lambda value, row: _per(value, row, "query", "queries")),
    Setting("tasks", "tasks", lambda value, row: _counted(value, "client" if row.clients else "test task")),
    Setting("seeds", "seeds", lambda value, row: _counted(value, "seed")),
    Setting("budget", "budget", lambda value, row: f"{_counted(value, _step(row))} of training"),
    Setting("rate", "rate", lambda value, row: f"client learning rate {value:g}"),
    Setting("padding", "padding", lambda value, row: f"{value:.0%} of a cohort padding", share=True),
    Setting("down", "down", lambda value, row: f"{value:,} numbers down"),
    Setting("up", "up", lambda value, row: f"{value:,} numbers up"),
)
KEYS = {
    "worst 10%": "worst 10%: mean of the tenth of clients with the worst values, of each seed by itself",
    "spread": "spread: standard deviation over clients, of each seed by itself",
    "padding": "padding: the share of a cohort's room that no example fills",
    "global": "global: the mean of the model that all clients share, behind their personal ones",
    "down": "down: numbers that a client receives in a round",
    "up": "up: numbers that it sends",
    "trans.": "trans.: batch statistics over several queries",
    "rot.": "rot.: each rotation by 90 degrees is a further class",
    "budget": "budget: outer steps (rounds) of training",
}


def tables(rows: Sequence[Row], against: str | None = None) -> list[Table]:
    """One table a metric, in the order in which the metrics come. `against` names the method of the last difference."""
    found = differences(rows, against)
    kinds = list(dict.fromkeys((row.metric, row.higher_is_better) for row in rows))
    return [
        _table([(row, gap) for row, gap in zip(rows, found) if (row.metric, row.higher_is_better) == kind], against)
        for kind in kinds
    ]


def _table(lines: list[tuple[Row, Difference | None]], against: str | None) -> Table:
    rows = [row for row, _ in lines]
    metric = rows[0].metric
    columns: list[tuple[str, str, list[str]]] = [("method", "method", [row.method for row in rows])]
    said: list[str] = []

    def settle(settings: Sequence[Setting]) -> None:
        for setting in settings:
            values = [getattr(row, setting.name) for row in rows]
            if setting.name == "run" and not _runs_differ(rows):
                continue
            if any(value != values[0] for value in values):
                columns.append((setting.name, setting.title, [_setting(value, setting.share) for value in values]))
            elif values[0] is not None and setting.phrase(values[0], rows[0]):
                said.append(setting.phrase(values[0], rows[0]))

    settle(BEFORE)
    columns.append(("mean", "mean ± CI", [measured(row.mean, row.half, metric) for row in rows]))
    if any(row.seed_mean_half is not None for row in rows):
        columns.append(("seed_mean_half", "CI of seeds", [_half(row.seed_mean_half, metric) for row in rows]))
    if metric != "accuracy":
        columns.append(("median", "median", [measured(row.median, None, metric, like=_finest(row)) for row in rows]))
    if any(row.common is not None for row in rows):
        shared = [NONE if row.common is None else measured(row.common, None, metric, like=row.half) for row in rows]
        columns.append(("common", "global", shared))
    if any(row.clients for row in rows):
        columns.append(("worst", "worst 10%", [measured(row.worst, None, metric, like=row.half) for row in rows]))
        columns.append(("spread", "spread", [measured(row.spread, None, metric, like=row.half) for row in rows]))
    if any(row.rounds for row in rows):
        columns.append(("rounds", f"rounds to {rows[0].target}", [row.rounds or NONE for row in rows]))
    if any(row.diverged for row in rows):
        columns.append(("diverged", "diverged", [_diverged(row) for row in rows]))
    if against is not None:
        columns.append(("difference", f"against {_spelled(against, lines)}", [_gap(gap, metric) for _, gap in lines]))
        halves = [gap.over_seeds.half if gap and gap.over_seeds else None for _, gap in lines]
        if any(half is not None for half in halves):
            columns.append(("difference_seeds", "its CI of seeds", [_half(half, metric) for half in halves]))
    if any(row.published for row in rows):
        columns.append(("published", "published", [row.published or NONE for row in rows]))
    settle(AFTER)
    names, titles, cells = zip(*columns)
    caption = _caption(rows, titles, said, against, columns)
    lines_of_text = [list(line) for line in zip(*cells)]
    return Table(metric, caption, list(names), list(titles), lines_of_text, [row.cite for row in rows])


def _caption(rows, titles, said, against, columns) -> str:
    what = METRICS.get(rows[0].metric, rows[0].metric)
    better = "higher" if rows[0].higher_is_better else "lower"
    over = "clients" if rows[0].clients else "test tasks"
    parts = [f"{what}, {better} is better: mean ± 95% confidence interval (CI) over {over}."]
    if said:
        sentence = ", ".join(said)
        parts.append(sentence[0].upper() + sentence[1:] + ".")
    names = [name for name, _, _ in columns]
    keys = [KEYS[title] for title in titles if title in KEYS]
    if "seed_mean_half" in names:
        keys.append("CI of seeds: 95% interval of the mean over seeds")
    if "rounds" in names:
        keys.append(
            "rounds to a target: a number for each seed, interpolated; > where it was not reached, ≤ where it was "
            "when first looked"
        )
    if "diverged" in names:
        keys.append("diverged: adaptations that ended not finite or far above where they began")
    if against is not None:
        title = titles[names.index("difference")]
        keys.append(
            f"{title}: mean paired difference, with its 95% interval, to that method on the same {over} "
            "after as many steps, or its last where it has no such row"
        )
        if "difference_seeds" in names:
            keys.append("its CI of seeds: the interval of that difference over seeds")
    return " ".join(parts + ([_sentence("; ".join(keys))] if keys else []))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _runs_differ(rows: Sequence[Row]) -> bool:
    """Whether some rows could not be told apart without the name of their run."""
    shown = [tuple(getattr(row, s.name) for s in BEFORE[1:] + AFTER) + (row.method, row.published) for row in rows]
    return len(set(shown)) < len(shown)


def _spelled(against: str, lines: list[tuple[Row, Difference | None]]) -> str:
    return next((gap.reference.method for _, gap in lines if gap), against)


def _setting(value: Any, share: bool = False) -> str:
    if value is None or value == "":
        return NONE
    if share:
        return f"{value:.0%}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _diverged(row: Row) -> str:
    return NONE if row.diverged is None else f"{row.diverged:,} of {(row.tasks or 0) * (row.seeds or 0):,}"


def _half(half: float | None, metric: str) -> str:
    return NONE if half is None else f"± {_number(half, half, metric)}"


def _gap(gap: Difference | None, metric: str) -> str:
    if gap is None:
        return NONE
    return "reference" if gap.interval is None else measured(gap.interval.mean, gap.interval.half, metric, sign="+")


def _finest(row: Row) -> float | None:
    """The interval or a tenth of the median, the smaller: a mean that one divergence made huge hides no median."""
    if row.median is None or row.half is None or not math.isfinite(row.half):
        return None
    return min(row.half, abs(row.median) / 10 or row.half)


def measured(mean: float | None, half: float | None, metric: str, *, like: float | None = None, sign: str = "") -> str:
    """`98.30 ± 0.31` of an accuracy, in percent; else two digits of the interval: `0.586 ± 0.062`.

    `like`: another number whose size says how many digits make sense. A mean that is not finite is said so.
    """
    if mean is None or not math.isfinite(mean):
        return "not finite"
    half = None if half is None or not math.isfinite(half) else half
    text = _number(mean, half if like is None else like, metric, sign)
    return text if half is None else f"{text} ± {_number(half, half, metric)}"


def _number(value: float, half: float | None, metric: str, sign: str = "") -> str:
    if metric == "accuracy":
        return f"{100 * value:{sign}.2f}".replace("-", "−")
    size = half if half else abs(value) / 10
    digits = min(6, max(0, 1 - math.floor(math.log10(size)))) if size and math.isfinite(size) else 3
    large = max(abs(value), size) >= 1e6
    return (f"{value:{sign}.1e}" if large else f"{value:{sign}.{digits}f}").replace("-", "−")


def markdown(table: Table) -> str:
    """The table in Markdown, under its caption."""
    lines = [table.titles, [":---"] + ["---:"] * (len(table.titles) - 1), *table.cells]
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    return f"{table.caption}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "–": "--", "<": "$<$", ">": "$>$", "≤": r"$\leq$"}  # fmt: skip


def escape(text: str) -> str:
    """Plain text as LaTeX has to have it.

    >>> print(escape("100% of my_net ± 1"))
    100\\% of my\\_net $\\pm$ 1
    """
    special = re.compile(r"[\\~^±−×–<>≤&%$#_{}\n]")
    return special.sub(lambda m: _LATEX.get(m[0], " " if m[0] == "\n" else "\\" + m[0]), text)


def latex(table: Table, label: str | None = None) -> str:
    r"""A `table` environment to `\input`. It needs no package; with booktabs loaded, its rules are used.

    A method is cited where it first comes. A wide table is set smaller.
    """
    label = label or f"tab:{re.sub('[^a-z0-9]+', '-', table.metric.lower())}"
    body: list[str] = []
    for number, (line, cite) in enumerate(zip(table.cells, table.cites)):
        new = cite and line[0] not in [earlier[0] for earlier in table.cells[:number]]
        first = escape(line[0]) + (f"~\\cite{{{cite}}}" if new else "")
        body.append(" & ".join([first, *map(escape, line[1:])]) + r" \\")
    return "\n".join([
        *(rf"\providecommand{{\{rule}}}{{\hline}}" for rule in ("toprule", "midrule", "bottomrule")),
        r"\begin{table}[t]", r"\centering" + _size(table),
        rf"\caption{{{escape(table.caption)}}}", rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.titles) - 1)}}}",
        r"\toprule", " & ".join(map(escape, table.titles)) + r" \\", r"\midrule",
        *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _size(table: Table) -> str:
    """The largest type in which a table is likely to fit into the 345 points of an article's column."""
    letters = 4 + sum(max(map(len, column)) for column in zip(table.titles, *table.cells))
    sizes = (("small", 9, 5), ("footnotesize", 8, 4), ("scriptsize", 7, 2))
    columns = len(table.titles)
    fitting = [(size, space) for size, points, space in sizes if points * letters / 2.2 + 2 * space * columns <= 345]
    size, space = (*fitting, ("scriptsize", 2))[0]
    return rf"\{size}\setlength{{\tabcolsep}}{{{space}pt}}"


CSV = ("run", *TEXTS, *FLAGS, *COUNTS, *NUMBERS)
CSV_DIFFERENCE = (
    "reference", "reference_steps", "difference", "difference_half", "difference_tasks", "difference_seeds_half",
)  # fmt: skip


def csv_text(rows: Sequence[Row], against: str | None = None) -> str:
    """Every row and every field as plain numbers (accuracies are fractions), for other programs to read."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((*CSV, *CSV_DIFFERENCE))
    for row, gap in zip(rows, differences(rows, against)):
        found: tuple[Any, ...] = (None,) * len(CSV_DIFFERENCE)
        if gap is not None:
            over_seeds = gap.over_seeds.half if gap.over_seeds else None
            found = (gap.reference.method, gap.reference.adapt_steps, *(gap.interval or (None,) * 3), over_seeds)
        writer.writerow([_plain(value) for value in (*(getattr(row, name) for name in CSV), *found)])
    return file.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value

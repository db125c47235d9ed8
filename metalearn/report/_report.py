"""From run folders to tables, figures and references."""

from collections.abc import Sequence
from pathlib import Path

from metalearn.core import InputError
from metalearn.files import write_whole
from metalearn.host import logs
from metalearn.report import bibtex, tables
from metalearn.report.results import Row, read_results


def report(
    folders: str | Path | Sequence[str | Path], out: str | Path | None = None, *, against: str | None = None
) -> list[Path]:
    """Writes everything that can be said about some runs, and returns the paths of the files.

    From the results: `table.md`, `table.tex`, `table.csv`, `methods.bib`, and `adaptation_curves.png` and `.pdf`, or
    `over_clients.png` and `.pdf` where tasks are clients; from the logs: `learning_curves.png` and `.pdf`. A run may
    have one without the other (one that is still training, one that was never trained).

    Args:
      folders: one or more run folders.
      out: where to write; by default the folder itself where there is one, else `report`.
      against: a method's name: every row is compared with that method on the same test tasks.

    Raises:
      InputError: a folder has neither results nor a log, a file is damaged, no row is of the method `against`, or
        `out` cannot be written to.
    """
    from metalearn.report import figures

    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    if not paths:
        raise InputError("folders: there is none; expected at least one run folder.")
    out = Path(out) if out is not None else paths[0] if len(paths) == 1 else Path("report")
    rows, histories = read_runs(paths)
    if against is not None and not rows:
        raise InputError(f"against is {against!r}, but there are no results to compare; test the runs first.")
    written = []
    if rows:
        made = tables.tables(rows, against)
        texts = {
            "table.md": "\n".join(map(tables.markdown, made)),
            "table.tex": "\n".join(map(tables.latex, made)),
            "table.csv": tables.csv_text(rows, against),
            "methods.bib": bibtex.bibliography(bibtex.keys(rows)),
        }
        written += [_write(out / name, text) for name, text in texts.items()]
        clients, tasks = [row for row in rows if row.clients], [row for row in rows if not row.clients]
        if tasks:
            written += _draw(figures.adaptation_curves(tasks), out / "adaptation_curves")
        if clients:
            written += _draw(figures.over_clients(clients), out / "over_clients")
    if histories:
        written += _draw(figures.learning_curves(histories), out / "learning_curves")
    return written


def read_runs(folders: Sequence[Path]) -> tuple[list[Row], dict[str, list[logs.Record]]]:
    """All rows, and the logs by run name. Folders of the same name are told apart by their parents'."""
    rows: list[Row] = []
    histories: dict[str, list[logs.Record]] = {}
    for folder, name in zip(folders, _names(folders)):
        log, results = folder / "log.jsonl", folder / "results.json"
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; expected a run folder.")
        if not log.exists() and not results.exists():
            raise InputError(f"{folder} has neither results.json nor log.jsonl; expected a run folder.")
        if results.exists():
            rows += [row._replace(run=name) for row in read_results(folder)]
        if log.exists():
            history = _history(log)
            if history:
                histories[name] = history
            elif not results.exists():
                raise InputError(f"{log} has no whole record yet; train the run first.")
    return rows, histories


def _history(log: Path) -> list[logs.Record]:
    try:
        history = logs.read(log)
    except OSError as error:
        raise InputError(f"{log} cannot be read ({error.strerror}).") from error
    if not history and log.stat().st_size:
        raise InputError(f"{log} is damaged: no line of it is a record with a 'step'.")
    return history


def _names(folders: Sequence[Path]) -> list[str]:
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        raise InputError("folders: one is given twice; expected different run folders.")
    short = [folder.name for folder in whole]
    return [name if short.count(name) == 1 else "/".join(folder.parts[-2:]) for folder, name in zip(whole, short)]


def _draw(figure, path: Path) -> list[Path]:
    from metalearn.report import style

    return style.save(figure, path.with_suffix(".png"), path.with_suffix(".pdf"))


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"out: {path} cannot be written ({error.strerror}); choose another folder.") from error
    return path

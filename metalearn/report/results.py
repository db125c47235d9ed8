"""What a test measured: `results.json` holds the numbers, `results.npz` the values of every task behind them."""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn.core import InputError
from metalearn.files import write_whole
from metalearn.metrics import interval
from metalearn.metrics import worst as tenth


class Row(NamedTuple):
    """One line of a table: a method, tested on K tasks after training with S seeds.

    The first four fields are needed; `summarized` fills in those after `failed` from the values.

    Fields:
      method, cite: its name, and its key in `bibtex.ENTRIES`.
      metric, higher_is_better: what was measured, `"accuracy"` (a fraction) or `"mse"`, or any other; and which way
        is better (None: higher for accuracy, lower for all else).
      values: per task, `[S, K]` or `[K]`. Column k is the same task for every seed.
      protocol: rows of one protocol have the same test tasks, in the same order (one may have fewer of them):
        `"omniglot/paper/5way/1shot/…"`. The part before the first slash names the data set.
      ways, shots, queries, adapt_steps, transductive, split, rotations, budget: the settings of the test, and the
        number of outer steps that were trained; None where the word means nothing.
      published: what the paper reports, as text: `"98.7 ± .4"`.
      before: the values before adaptation, `[S, K]`: what `diverging` compares with.
      failed: which adaptations diverged, bool `[S, K]`, where the values do not show it (an accuracy is always
        finite): `diverging(losses, losses_before)`.
      clients: whether tasks are clients, steps rounds, and the worst tenth and the spread are of interest.
      rounds: rounds to a target, a text for each seed: `"87 / 91 / > 1,000"`; `target` says which, `"97%"`.
      down, up: numbers that a client receives and sends in a round.
      rate: the clients' learning rate.
      padding: the share of a padded cohort's examples that no client has.
      common: the mean of the model that all clients share, where each was tested with one of its own.
      run: the name of the run folder, given when it is read.
    """

    method: str
    metric: str
    values: np.ndarray | None
    protocol: str
    cite: str | None = None
    higher_is_better: bool | None = None
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    adapt_steps: int | None = None
    transductive: bool | None = None
    split: str | None = None
    rotations: bool | None = None
    budget: int | None = None
    published: str | None = None
    before: np.ndarray | None = None
    failed: np.ndarray | None = None
    clients: bool | None = None
    rounds: str | None = None
    target: str | None = None
    down: int | None = None
    up: int | None = None
    rate: float | None = None
    padding: float | None = None
    common: float | None = None
    mean: float | None = None  # None where it is not finite
    half: float | None = None  # half-width of the 95% interval over tasks, each averaged over seeds
    seed_mean_half: float | None = None  # half-width of the 95% interval over the seeds' means; None for one seed
    median: float | None = None  # over all tasks and seeds; what is not finite counts as worst
    worst: float | None = None  # the mean of a seed's worst tenth of tasks, averaged over seeds
    spread: float | None = None  # the standard deviation over a seed's tasks, averaged over seeds
    tasks: int | None = None
    seeds: int | None = None
    diverged: int | None = None  # of tasks × seeds
    run: str = ""


TEXTS = ("method", "metric", "protocol", "cite", "split", "published", "rounds", "target")
FLAGS = ("higher_is_better", "transductive", "rotations", "clients")
COUNTS = ("ways", "shots", "queries", "adapt_steps", "budget", "down", "up", "tasks", "seeds", "diverged")
NUMBERS = ("rate", "padding", "common", "mean", "half", "seed_mean_half", "median", "worst", "spread")
FIELDS = TEXTS + FLAGS + COUNTS + NUMBERS
NEEDED = ("method", "metric", "protocol", "tasks", "seeds")


def diverging(values: np.ndarray, before: np.ndarray | None = None, *, factor: float = 2.0) -> np.ndarray:
    """Which adaptations diverged, bool in the shape of `values`, which are losses (lower is better).

    One has diverged when its value is not finite or, where the values `before` adaptation are given, is more than
    `factor` times both its own value before and the mean before. The mean is there for tasks that were easy at once.

    >>> diverging(np.array([0.1, 9.0, 0.4, np.nan]), np.array([3.0, 2.0, 0.1, 2.0])).tolist()
    [False, True, False, True]
    """
    values = np.asarray(values, np.float64)
    bad = ~np.isfinite(values)
    if before is None:
        return bad
    before = np.asarray(before, np.float64)
    if before.shape != values.shape:
        raise InputError(f"before has shape {list(before.shape)}, but must be shaped like values {list(values.shape)}.")
    known = before[np.isfinite(before)]
    mean = known.mean() if known.size else 0.0
    return bad | (values > factor * np.fmax(before, mean))


def summarized(row: Row) -> Row:
    """The row with its statistics filled in from its values, which become float64 `[S, K]`."""
    values = np.asarray(row.values, np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise InputError(f"values of {row.method} have shape {list(values.shape)}; expected [seeds, tasks].")
    values = values[None] if values.ndim == 1 else values
    higher = row.metric == "accuracy" if row.higher_is_better is None else row.higher_is_better
    before = None if row.before is None or higher else np.asarray(row.before, np.float64).reshape(values.shape)
    failed = diverging(values, before) if row.failed is None else np.asarray(row.failed, bool)
    worst = np.where(np.isfinite(values), values, -np.inf if higher else np.inf)
    with np.errstate(invalid="ignore", over="ignore"):  # a mean that is not finite is said so, not warned of
        over_tasks, over_seeds = interval(values.mean(0)), interval(values.mean(1))
        median = np.median(worst)
        sign = 1.0 if higher else -1.0
        # of each seed by itself: an average over seeds would hide whom it treated badly
        lowest, spread = sign * np.mean([tenth(sign * seed) for seed in worst]), values.std(1).mean()
    return row._replace(
        values=values,
        higher_is_better=bool(higher),
        mean=_finite(over_tasks.mean),
        half=_finite(over_tasks.half),
        seed_mean_half=_finite(over_seeds.half),
        median=_finite(median),
        worst=_finite(float(lowest)),
        spread=_finite(spread),
        tasks=values.shape[1],
        seeds=values.shape[0],
        diverged=int(failed.sum()),
    )


def write_results(folder: str | Path, rows: Sequence[Row]) -> list[Row]:
    """Writes `results.json` and `results.npz`, each whole or not at all, and returns the rows with their statistics.

    `results.json` is `{"rows": [{…the fields of Row but the arrays…, "values": key}]}`; the values, float32 `[S, K]`,
    are in `results.npz` under that key. What is not finite becomes null.

    Raises InputError for values that are not `[S, K]`, and for a folder that cannot be written to.
    """
    folder, rows = Path(folder), [summarized(row) for row in rows]
    arrays, listed = {}, []
    for number, row in enumerate(rows):
        with np.errstate(over="ignore"):
            values = np.asarray(row.values, np.float32)
        # the checksum makes a table and values of different writings refuse each other
        key = f"row{number}-{zlib.crc32(values.tobytes()):08x}"
        arrays[key] = values
        listed.append({name: _plain(name, getattr(row, name)) for name in FIELDS} | {"values": key})
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "results.npz", packed.getvalue())
        text = json.dumps({"rows": listed}, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(folder / "results.json", f"{text}\n")
    except OSError as error:
        raise InputError(f"folder: {folder} cannot be written to ({error.strerror}); choose another.") from error
    return rows


def read_results(folder: str | Path) -> list[Row]:
    """The rows of a run folder, with `run` set to the folder's name.

    Without `results.npz` the values are None: enough for tables, not for differences. Raises InputError for a file
    that is missing or damaged.
    """
    folder = Path(folder)
    path = folder / "results.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is not JSON; test the run again.") from error
    listed = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{path} has no list 'rows': it is damaged, or of an experiment that writes its own tables.")
    arrays = _read_arrays(folder / "results.npz")
    return [_row(path, number, item, arrays)._replace(run=folder.resolve().name) for number, item in enumerate(listed)]


def _row(path: Path, number: int, item: Any, arrays: dict[str, np.ndarray] | None) -> Row:
    if not isinstance(item, dict):
        raise InputError(f"{path} is damaged: row {number} is not an object; test the run again.")
    fields: dict[str, Any] = {name: item.get(name) for name in FIELDS}
    for name, value in fields.items():
        if not _fits(name, value):
            raise InputError(f"{path} is damaged: {name!r} of row {number} is {value!r}; test the run again.")
    values = None
    if arrays is not None:
        values = arrays.get(str(item.get("values")))
        if values is None or values.shape != (fields["seeds"], fields["tasks"]):
            raise InputError(f"{path} and results.npz do not belong together (row {number}); test the run again.")
    return Row(**fields, values=values)


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name not in NEEDED
    if name in TEXTS:
        return isinstance(value, str)
    if name in FLAGS:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) and value >= 0 if name in COUNTS else isinstance(value, int | float)


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged; test the run again.") from error


def _plain(name: str, value: Any) -> Any:
    """Settings often come as NumPy scalars, which JSON does not know."""
    kind = str if name in TEXTS else bool if name in FLAGS else int if name in COUNTS else float
    return None if value is None else kind(value)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

"""Tiny Shakespeare by speaking role: natural clients, each with a voice of its own."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn.arguments import whole
from metalearn.core import InputError

_HOW = (
    "get input.txt of Karpathy's tinyshakespeare (github.com/karpathy/char-rnn, data/tinyshakespeare, 1.1 MB) and "
    "pass its path, or set METALEARN_SHAKESPEARE to it"
)


class Text(NamedTuple):
    """Pieces of text for next-character prediction, and whose they are.

    `x` int32 `[n, length]`: codes, which are places in `vocabulary`. `y` int32 `[n, length]`: at every place the
    character that follows. `roles` int32 `[n]`: who says it, a place in `names`; pieces of a role are in their order.
    """

    x: np.ndarray
    y: np.ndarray
    roles: np.ndarray
    names: tuple[str, ...]
    vocabulary: str


def shakespeare(path: str | os.PathLike | None = None, *, length: int = 80, min_characters: int = 2_000) -> Text:
    """Returns the `Text` of all roles that speak at least `min_characters`, cut into pieces of `length` characters.

    A role's speeches, without their heading, are joined by line breaks in the order of the file and cut without
    overlap: x is characters 80 i … 80 i + 79, y those one further on; what is left at the end is dropped. The
    vocabulary is that of the whole file (65 characters). With the defaults there are 99 roles, in alphabetical order,
    so that client k of `partitions.by_group(text.roles)` is `names[k]`; `split_each(…, ordered=True)` keeps the end
    of every role for the test, as McMahan et al. (2017, arXiv 1602.05629) do with the complete works.

    Deviation from theirs: the file has 40,000 lines and does not say where a play begins, so a role is a name, and
    roles of the same name in two plays (GLOUCESTER, or Messenger) are one client.

    `path` is the file, by default METALEARN_SHAKESPEARE. Raises `InputError`, saying how to get it, where it is not
    there or is another.
    """
    length, min_characters = whole("length", length), whole("min_characters", min_characters)
    place = path or os.environ.get("METALEARN_SHAKESPEARE")
    if not place:
        raise InputError(f"the text of Shakespeare has no path: {_HOW}.")
    try:
        text = Path(place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{os.fspath(place)} cannot be read as text: {_HOW}.") from error

    said = {name: "\n".join(speeches) for name, speeches in sorted(_speeches(text).items())}
    said = {name: lines for name, lines in said.items() if len(lines) >= max(min_characters, length + 1)}
    if not said:
        raise InputError(f"{os.fspath(place)} has no role that speaks {min_characters} characters: {_HOW}.")
    vocabulary = "".join(sorted(set(text)))
    points = _code_points(vocabulary)
    codes = [np.searchsorted(points, _code_points(lines)).astype(np.int32) for lines in said.values()]
    counts = [(len(one) - 1) // length for one in codes]
    x, y = (
        np.concatenate([one[start : start + count * length] for one, count in zip(codes, counts)]).reshape(-1, length)
        for start in (0, 1)
    )
    return Text(x, y, np.repeat(np.arange(len(said), dtype=np.int32), counts), tuple(said), vocabulary)


def _speeches(text: str) -> dict[str, list[str]]:
    """Each role's speeches: blocks between empty lines, of which the first line is `NAME:`."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n{2,}", text.strip("\n")):
        heading, _, speech = block.partition("\n")
        if heading.endswith(":") and speech:
            found.setdefault(heading[:-1], []).append(speech)
    return found


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)

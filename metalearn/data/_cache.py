"""Prepared arrays, kept between runs."""

import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metalearn.files import write_whole


def cache_folder() -> Path:
    """Returns METALEARN_CACHE, or else `metalearn` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache)."""
    own = os.environ.get("METALEARN_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metalearn"


def cached(name: str, build: Callable[[], dict], is_good: Callable[[dict], bool]) -> dict:
    """Returns the arrays in the cache file `name`.npz; where it is missing or damaged, builds and keeps them.

    `build() -> arrays` by name; `is_good(arrays)` says whether what was read is what should be there. A cache that
    cannot be written costs time and not the run: there is a warning.
    """
    path = cache_folder() / f"{name}.npz"
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        if is_good(arrays):
            return arrays
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        pass  # missing or damaged: both are mended by building
    arrays = build()
    try:
        _write(path, arrays)
    except OSError as error:
        warnings.warn(
            f"{path} could not be written ({error.strerror}), so the data will be prepared again next time; "
            "set METALEARN_CACHE to a folder that can be written.",
            stacklevel=2,
        )
    return arrays


def _write(path: Path, arrays: dict) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, packed.getvalue())

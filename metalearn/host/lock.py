"""One process at a time in a run's folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from metalearn.core import InputError


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Holds a folder for as long as it is entered; the system lets go of it however this process ends.

    Where neither system nor disk can lock (Windows, some network disks) nothing is held. Raises `InputError` where
    another run is at work there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise InputError(f"folder: another run is at work in {folder}; wait for it or choose another.") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(held)

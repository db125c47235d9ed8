"""One process at a time in a run's folder."""

import contextlib
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
    with (Path(folder) / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"folder: another run is at work in {folder}; wait for it or choose another.") from None
        except OSError:
            pass
        yield

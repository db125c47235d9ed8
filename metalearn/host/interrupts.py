"""Ctrl-C and SIGTERM, put off until a convenient moment."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred(enabled: bool = True) -> Iterator[Callable[[], int | None]]:
    """Yields a function that says which of SIGINT and SIGTERM has arrived, or None.

    The first one is only noted; after it, and at the end, the handlers from before are back, so that a second one
    ends the program at once. Signals that are ignored stay ignored, and outside the main thread, where Python cannot
    set handlers, nothing is put off.
    """
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    if not enabled or threading.current_thread() is not threading.main_thread():
        before = {}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        arrived.append(number)
        put_back()
        name = signal.Signals(number).name
        print(f"{name}: finishing the steps under way, then saving; a second one stops at once.", file=sys.stderr)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: arrived[0] if arrived else None
    finally:
        put_back()


def leave(number: int) -> None:
    """Raises what the signal would have meant: KeyboardInterrupt, or SystemExit with code 143 for SIGTERM."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)

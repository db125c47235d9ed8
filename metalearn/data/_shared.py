"""What several samplers share."""

import operator

from metalearn.core import InputError


def positive(name: str, value) -> int:
    """Returns `value` as an int, or raises `InputError` if it is not an integer of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < 1:
        raise InputError(f"{name} must be an integer of at least 1, but is {value!r}.")
    return number


def between(low, high, u):
    """Returns numbers in [low, high) out of uniform ones in [0, 1)."""
    return low + (high - low) * u

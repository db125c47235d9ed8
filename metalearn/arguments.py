"""Refuses, when something is built, what would fail obscurely when it runs: numbers out of range, a factory not called,
a module not wrapped."""

import operator
import re
from typing import Any

import jax

from metalearn.core import Batch, InputError


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value`, which may be NumPy's, as an int; `InputError` where it is no whole number of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool) or count < least:
        raise InputError(f"{name} must be a whole number of at least {least}, but is {value!r}.")
    return count


def number(
    name: str,
    value: float | jax.Array,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """`InputError` where a number is known and not within the bounds; under `jit` or `vmap` it is not known."""
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, str) or value is None:
        raise InputError(f"{name} must be a number, but is {value!r}.")
    bounds = [
        ("above", above, operator.gt),
        ("at least", least, operator.ge),
        ("below", below, operator.lt),
        ("at most", most, operator.le),
    ]
    given = [(said, bound, holds) for said, bound, holds in bounds if bound is not None]
    if not all(holds(value, bound) for _, bound, holds in given):
        said = " and ".join(f"{said} {bound:g}" for said, bound, _ in given)
        raise InputError(f"{name} must be {said}, but is {value}.")


def pattern(name: str, value: str) -> re.Pattern[str]:
    """A regular expression of a user's; `InputError` where it is none."""
    try:
        return re.compile(value)
    except (re.error, TypeError) as error:
        raise InputError(f"{name}={value!r} is no regular expression: {error}.") from None


def check_model(model: Any) -> None:
    """`InputError` for what is no `Model`."""
    hint = "a Linen module becomes one by from_linen, an NNX module by from_nnx"
    _with_parts("model", model, ("init", "apply", "train"), hint)


def check_models(*models: Any) -> None:
    """`InputError` where one of several is no `Model`."""
    for model in models:
        check_model(model)


def check_batches(batches: Any, count: int) -> None:
    """`InputError` where a step that wants several independent batches was given another number of them, or one."""
    if isinstance(batches, Batch) or len(batches) != count:
        found = "one batch" if isinstance(batches, Batch) else len(batches)
        raise InputError(f"a step needs a tuple of {count} independent batches, but was given {found}")


def check_aggregator(aggregator: Any) -> None:
    """`InputError` for what is no `Aggregator`."""
    _with_parts("aggregator", aggregator, ("init", "update", "linear"), "call what makes one, as in mean()")


def check_optimizer(optimizer: Any) -> None:
    """`InputError` for what has not the two functions of an Optax transformation."""
    _with_parts("optimizer", optimizer, ("init", "update"), "give an Optax transformation, as in optax.sgd(0.1)")


def _with_parts(what: str, value: Any, parts: tuple[str, ...], hint: str) -> None:
    missing = [part for part in parts if not hasattr(value, part)]
    if missing:
        shown = getattr(value, "__name__", None) or type(value).__name__
        raise InputError(f"{what}: {shown} has no {missing[0]!r}; {hint}")

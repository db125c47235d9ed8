"""Refuses, when something is built, what would fail obscurely when it runs: a factory not called, a module not
wrapped."""

from typing import Any

from metalearn.core import InputError


def check_model(model: Any) -> None:
    """`InputError` for what is no `Model`."""
    hint = "a Linen module becomes one by from_linen, an NNX module by from_nnx"
    _with_parts("model", model, ("init", "apply", "train"), hint)


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

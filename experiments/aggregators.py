"""Aggregators by name, for experiments that need one that takes no argument."""

from collections.abc import Callable

import metalearn as ml
from experiments.command_line import imported

TITLES = {
    "equal": "Equal weighting", "pcgrad": "PCGrad", "mgda": "MGDA", "cagrad": "CAGrad", "nash": "Nash-MTL",
    "imtl_g": "IMTL-G", "upgrad": "UPGrad", "fairgrad": "FairGrad", "aligned": "Aligned-MTL", "config": "ConFIG",
    "dualproj": "DualProj", "graddrop": "GradDrop", "fixed": "Fixed weights", "tchebycheff": "Smooth Tchebycheff",
    "random": "Random weights", "geometric": "Geometric mean",
}  # fmt: skip


def aggregator_of(name: str) -> Callable[[], ml.Aggregator]:
    """A function without arguments that makes an aggregator, by its name or as `some.module:function`."""
    known = {"equal": ml.mean} | {n: getattr(ml.aggregate, n) for n in TITLES if n not in ("equal", "fixed")}
    return known[name] if name in known else imported(name, known)


def title(name: str) -> str:
    """A method's name in a table."""
    return TITLES.get(name, name)

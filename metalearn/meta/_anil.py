"""ANIL: adapt the head alone (Raghu et al. 2020, arXiv 1909.09157)."""

from typing import Any

import optax

from metalearn.core import Criterion, Learner, Model
from metalearn.meta._maml import maml


def anil(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    num_steps: int = 1,
    *,
    head: str = "head",
    **options: Any,
) -> Learner:
    """Almost no inner loop: MAML whose inner steps change only the head; the outer loop trains everything.

    `head` is a regular expression over parameter paths (`params/head/kernel`); one that matches nothing is an error.
    """
    return maml(model, criterion, optimizer, num_steps, where=head, **options)

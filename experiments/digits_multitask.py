"""Three tasks on 1,797 handwritten digits that come with scikit-learn: no files needed.

    python -m experiments.digits_multitask PRESET [--field value …]        --help lists both

    few       single task, equal weighting, uncertainty, MGDA, PCGrad, Nash-MTL: about a minute
    all       every method

Which digit it is (of ten), whether it is odd, and how large it is (regression, in units of nine). A table of test
metrics over seeds, the gain over tuned single-task models (Δm) and the paired difference to tuned equal weighting; logs
and checkpoints go to the run folder; the same command resumes. Uncertainty's half for regression is left out: where its
weights have settled each is 1 / (2 L) with it and without, so it changes how they begin. `--methods
some.module:function` takes a method of your own: `function(settings, (init, trunk, heads), optimizer, K,
steps_an_epoch) -> Algorithm`.
"""

from dataclasses import dataclass

from experiments.settings import MultiTask

_FEW = ("single", "equal", "uncertainty", "mgda", "pcgrad", "nash")
_ALL = (
    *("single", "equal", "fixed", "uncertainty", "imtl_l", "dwa", "random", "geometric", "priority", "tchebycheff"),
    *("famo", "auto-lambda", "gradnorm", "mgda", "mgda-ub", "pcgrad", "gradvac", "graddrop", "cagrad", "nash"),
    *("imtl_g", "aligned", "upgrad", "dualproj", "config", "fairgrad", "excess", "moco", "sdmgrad"),
)


@dataclass(frozen=True)
class Settings(MultiTask):
    """One comparison on digits."""

    methods: tuple[str, ...] = _ALL
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    epochs: int = 30
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the shared layers."""
    test: float = 0.2
    """The share of all examples that is for test."""
    folder: str = "runs/digits_multitask"


PRESETS = {
    "few": ("six methods", Settings(methods=_FEW)),
    "all": ("every method", Settings()),
}


def main(settings: Settings) -> None:
    """Trains, tests and reports."""
    from experiments import multitask

    multitask.main(settings, problem)


def problem(s: Settings):
    """Digits as three tasks."""
    import jax.numpy as jnp
    import numpy as np
    from flax import linen as nn

    import metalearn as ml
    from experiments.multitask import Problem
    from metalearn.core import Batch, InputError

    if not 0 < s.test < 1 - s.validation:
        raise InputError(f"test must leave something to learn from, but is {s.test} beside {s.validation}.")
    images, labels = ml.data.digits_in_order()
    order = np.random.default_rng(s.data_seed).permutation(len(labels))
    cuts = np.cumsum([round(share * len(order)) for share in (s.test, s.validation)])

    def batch(rows):
        digit = jnp.asarray(labels[rows])
        y = {"digit": digit, "parity": digit % 2, "magnitude": digit[:, None] / 9}
        return Batch(jnp.asarray(images[rows]), y)

    test, validation, train = (batch(rows) for rows in np.split(order, cuts))
    sizes = {"digit": 10, "parity": 2, "magnitude": 1}

    class Trunk(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(ml.nets.MLP(s.hidden)(x))

    def model(tasks):
        heads = {task: ml.from_linen(ml.nets.MLP([sizes[task]])) for task in tasks}
        return ml.multitask.hard(ml.from_linen(Trunk()), heads)

    return Problem(
        name="digits",
        model=model,
        criteria={"digit": ml.cross_entropy, "parity": ml.cross_entropy, "magnitude": ml.squared_error},
        metrics={"digit": ("accuracy", True), "parity": ("accuracy", True), "magnitude": ("mse", False)},
        train=train,
        validation=validation,
        test=test,
    )


if __name__ == "__main__":
    from experiments.command_line import UNOPTIMISED, launch

    launch(PRESETS, main, __doc__, flags=UNOPTIMISED)

"""Few-shot Omniglot: any method, ways and shots.

    python -m experiments.omniglot PRESET [--field value …]        --help lists both

A preset holds a paper's published settings. Accuracies (%) published, and run time on two CPU cores:

    maml-5way-1shot      98.7 ± .4   transductive     60,000 steps   70 min
    reptile-5way-1shot   95.39       one query at a time  100,000 steps   80 min
    protonet-1shot       98.8 (5-way), 96.0 (20-way)  5,000 of 10,000+ episodes  60 min
    protonet-5shot       99.7 (5-way), 98.9 (20-way)
    compare-*            MAML, FOMAML, ANIL, Meta-SGD, fine-tuning: one equal budget of 10,000 steps

`--method some.module:function` takes a learner of your own: `function(model, criterion) -> Learner`.
The run folder receives configuration, versions, logs, checkpoints, test results and figures; the same command resumes.
"""

from dataclasses import dataclass, replace

METHODS = ("maml", "fomaml", "anil", "meta_sgd", "reptile", "protonet", "finetune", "scratch")


@dataclass(frozen=True)
class Settings:
    """One run on Omniglot."""

    method: str = "maml"
    """maml, fomaml, anil, meta_sgd, reptile, protonet, finetune, scratch, or your own as some.module:function."""
    ways: int = 5
    """Classes of a training task."""
    shots: int = 1
    """Support images a class in a training task."""
    queries: int = 1
    """Query images a class in a training task."""
    tasks: int = 32
    """Tasks in a meta-batch."""
    steps: int = 60_000
    """Outer steps."""
    outer: str = "adam"
    """Outer optimizer: adam or sgd."""
    outer_rate: float = 1e-3
    outer_decay: str = "none"
    """none, linear (to 0 over the run) or halving (every `halve_every` steps)."""
    halve_every: int = 2_000
    inner: str = "sgd"
    """Inner optimizer: sgd, or adam with b1=0."""
    inner_rate: float = 2.0
    """Inner learning rate on the mean loss."""
    inner_steps: int = 1
    inner_batch: int | None = None
    """Images an inner training step; none uses the whole support set."""
    width: int = 64
    """Filters of each of the four convolutions."""
    test_ways: tuple[int, ...] = ()
    """Ways of the test tasks; by default those of training."""
    test_shots: int | None = None
    """Shots of the test tasks; by default those of training."""
    test_queries: int = 1
    """Query images a class in a test task (it matters where evaluation is transductive)."""
    test_tasks: int = 1_000
    test_steps: tuple[int, ...] = (0, 1, 3, 5, 10)
    """Numbers of adaptation steps to report; the last is the one that chooses the checkpoint."""
    test_batch: int | None = None
    """Images an inner step at test; none uses the whole support set."""
    transductive: bool = True
    """Whether batch normalisation may see several queries at once."""
    split: str = "paper"
    """paper: 1,100 / 100 / 423 characters by split_seed; tfds: the background and evaluation alphabets."""
    split_seed: int = 0
    rotations: bool = True
    """Whether each rotation by 90 degrees is a further class in training."""
    test_rotations: bool = True
    within_alphabet: bool = False
    """Whether all classes of a test task come from one alphabet."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds; several are trained at once."""
    validate_every: int = 2_000
    validation_tasks: int = 200
    log_every: int = 100
    folder: str = "runs/omniglot"
    """Where everything of the run goes."""


def _few_steps(method: str, ways: int, shots: int) -> Settings:
    steps = 1 if ways == 5 else 5
    return Settings(
        method, ways, shots, shots, 32 if ways == 5 else 16, inner_steps=steps, test_queries=shots,
        folder=f"runs/omniglot-{method}-{ways}way-{shots}shot",
    )  # fmt: skip


def _reptile(ways: int, shots: int) -> Settings:
    few = ways == 5
    return Settings(
        "reptile", ways, 10, 1, 5, 100_000 if few else 200_000, "sgd", 1.0, "linear", inner="adam",
        inner_rate=1e-3 if few else 5e-4, inner_steps=5 if few else 10, inner_batch=10 if few else 20,
        test_shots=shots, test_steps=(0, 5, 50), test_batch=5 if few else 10, transductive=False,
        test_rotations=False, validate_every=5_000, validation_tasks=100, log_every=500,
        folder=f"runs/omniglot-reptile-{ways}way-{shots}shot",
    )  # fmt: skip


def _protonet(shots: int) -> Settings:
    return Settings(
        "protonet", 60, shots, 5, 1, 10_000, outer_decay="halving", test_ways=(5, 20), test_queries=15 if shots == 1 else 5,
        test_steps=(0,), transductive=False, validate_every=500, log_every=50, folder=f"runs/omniglot-protonet-{shots}shot",
    )  # fmt: skip


def _compare(method: str) -> Settings:
    base = replace(_few_steps(method, 5, 1), steps=10_000, validate_every=1_000, folder=f"runs/omniglot-compare-{method}")
    return {
        "anil": replace(base, inner_rate=0.5, inner_steps=1),
        "meta_sgd": replace(base, inner_rate=2.0),
        "finetune": replace(base, inner_rate=0.5, inner_steps=10, test_steps=(0, 1, 10, 50, 100)),
        "scratch": replace(base, steps=0, inner_rate=0.1, test_steps=(0, 1, 10, 50)),
    }.get(method, base)


PRESETS = {
    **{
        f"{method.replace('_', '-')}-{ways}way-{shots}shot": (f"{method}, published settings", _few_steps(method, ways, shots))
        for method in ("maml", "fomaml", "anil", "meta_sgd")
        for ways in (5, 20)
        for shots in (1, 5)
    },
    **{
        f"reptile-{ways}way-{shots}shot": ("Reptile, published settings, not transductive", _reptile(ways, shots))
        for ways in (5, 20)
        for shots in (1, 5)
    },
    **{f"protonet-{shots}shot": ("60-way training, tested on 5 and 20 ways", _protonet(shots)) for shots in (1, 5)},
    **{
        f"compare-{method.replace('_', '-')}": ("10,000 steps, the same test tasks", _compare(method))
        for method in ("maml", "fomaml", "anil", "meta_sgd", "finetune", "scratch")
    },
}


def main(settings: Settings) -> None:
    """Trains, tests and reports."""
    from experiments import few_shot

    few_shot.omniglot(settings)


if __name__ == "__main__":
    from experiments.command_line import launch

    launch(PRESETS, main, __doc__)

"""Few-shot Omniglot: any method, ways and shots.

    python -m experiments.omniglot PRESET [--field value …]        --help lists both

A preset holds a paper's published settings. Accuracies (%) published, and run time on two CPU cores:

    maml-5way-1shot      98.7 ± .4   transductive     60,000 steps   3 hours
    reptile-5way-1shot   95.39       one query at a time  100,000 steps   2 hours
    protonet-1shot       98.8 (5-way), 96.0 (20-way)  10,000 episodes   2 hours for 4,000
    protonet-5shot       99.7 (5-way), 98.9 (20-way)
    compare-*            MAML, FOMAML, ANIL, Meta-SGD, fine-tuning, scratch: one equal budget of 10,000 steps

`--method some.module:function` takes a learner of your own: `function(model, criterion) -> Learner`.
The run folder receives configuration, versions, logs, checkpoints, test results and figures; the same command resumes.
"""

from dataclasses import dataclass, replace

from experiments.settings import FewShot


@dataclass(frozen=True)
class Settings(FewShot):
    """One run on Omniglot."""

    ways: int = 5
    shots: int = 1
    queries: int = 1
    tasks: int = 32
    steps: int = 60_000
    inner_rate: float = 2.0
    test_queries: int = 1
    test_tasks: int = 1_000
    test_steps: tuple[int, ...] = (0, 1, 3, 5, 10)
    validation_steps: int = 3
    tuned_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    validate_every: int = 2_000
    log_every: int = 100
    folder: str = "runs/omniglot"
    width: int = 64
    """Filters of each of the four convolutions."""
    split: str = "paper"
    """paper: 1,100 / 100 / 423 characters by split_seed; tfds: the background and evaluation alphabets."""
    split_seed: int = 0
    rotations: bool = True
    """Whether each rotation by 90 degrees is a further class in training."""
    test_rotations: bool = True
    within_alphabet: bool = False
    """Whether all classes of a test task come from one alphabet."""


def _few_steps(method: str, ways: int, shots: int) -> Settings:
    few = ways == 5
    return Settings(
        method=method, ways=ways, shots=shots, queries=shots, tasks=32 if few else 16, inner_steps=1 if few else 5,
        test_queries=shots, validation_steps=1 if method == "meta_sgd" else 3,
        folder=f"runs/omniglot-{method.replace('_', '-')}-{ways}way-{shots}shot",
    )  # fmt: skip


def _reptile(ways: int, shots: int) -> Settings:
    few = ways == 5
    return Settings(
        method="reptile", ways=ways, shots=10, tasks=5, steps=100_000 if few else 200_000, outer="sgd", outer_rate=1.0,
        outer_decay="linear", inner="adam", inner_rate=1e-3 if few else 5e-4, inner_steps=5 if few else 10,
        inner_batch=10 if few else 20, test_shots=(shots,), test_steps=(0, 5, 50), validation_steps=50,
        test_batch=5 if few else 10, transductive=False, test_rotations=False, validate_every=5_000,
        validation_tasks=100, log_every=500, folder=f"runs/omniglot-reptile-{ways}way-{shots}shot",
    )  # fmt: skip


def _protonet(shots: int) -> Settings:
    return Settings(
        method="protonet", ways=60, shots=shots, queries=5, tasks=1, steps=10_000, outer_decay="halving",
        test_ways=(5, 20), test_queries=15 if shots == 1 else 5, transductive=False, validate_every=500, log_every=50,
        folder=f"runs/omniglot-protonet-{shots}shot",
    )  # fmt: skip


def _compare(method: str) -> Settings:
    base = replace(
        _few_steps(method, 5, 1),
        steps=10_000,
        validate_every=1_000,
        folder=f"runs/omniglot-compare-{method.replace('_', '-')}",
    )
    return {
        # judged after the one step it trains for: in three its head overshoots, and an early checkpoint would be best
        "anil": replace(base, inner_rate=0.5, validation_steps=1),
        "finetune": replace(base, test_steps=(0, 1, 10, 50, 100), validation_steps=100),
        "scratch": replace(base, test_steps=(0, 1, 10, 50), validation_steps=50),
    }.get(method, base)


PRESETS = {
    **{
        f"{method.replace('_', '-')}-{ways}way-{shots}shot": (
            f"{method}, published settings",
            _few_steps(method, ways, shots),
        )
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


_GRID = ((5, 1), (5, 5), (20, 1), (20, 5))
_ACCURACIES = {  # (method, adaptation steps): accuracy in %, for each of the grid's ways and shots
    ("maml", 3): ("98.7 ± .4", "99.9 ± .1", "95.8 ± .3", "98.9 ± .2"),
    ("fomaml", 3): ("98.3", "99.2", "89.4", "97.9"),
    ("anil", 3): (None, None, "96.2", "98.0"),
    ("meta_sgd", 1): ("99.5", "99.9", "95.9", "99.0"),
    ("reptile", 50): ("95.39", "98.90", "88.14", "96.65"),
    ("protonet", 0): ("98.8", "99.7", "96.0", "98.9"),
}
PUBLISHED = {
    (method, *setting, steps): value
    for (method, steps), values in _ACCURACIES.items()
    for setting, value in zip(_GRID, values)
}


def main(settings: Settings) -> None:
    """Trains, tests and reports."""
    from experiments import few_shot

    few_shot.main(settings, problem, PUBLISHED)


def problem(s: Settings):
    """Omniglot as a problem: Conv-4 as the method's paper has it, and samplers over unseen characters."""
    import metalearn as ml
    from experiments.few_shot import Problem

    images = ml.data.omniglot(s.split, seed=s.split_seed)

    def sampler(part, rotations, within=False):
        return lambda num_ways, num_support, num_query: ml.data.few_shot(
            part,
            num_ways=num_ways,
            num_support=num_support,
            num_query=num_query,
            rotations=rotations,
            within_group=within,
        )

    num_classes = images.train.images.shape[0] * (4 if s.rotations else 1)
    return Problem(
        name="omniglot",
        network=lambda num_ways: network(s.method, num_ways, s.width),
        criterion=ml.cross_entropy,
        metric="accuracy",
        train=sampler(images.train, s.rotations),
        # as many images a step as a meta-batch of the other methods has
        joint=lambda: ml.data.batched(
            ml.data.examples(images.train, s.tasks * s.ways * (s.shots + s.queries), rotations=s.rotations), 1
        ),
        validation=sampler(images.validation, s.test_rotations),
        test=sampler(images.test, s.test_rotations, s.within_alphabet),
        pretrained=ml.nets.with_head(network("finetune", None, s.width), num_classes),
        new_head=True,
        adapted=r"^(?!.*norm)",  # MAML's code leaves the norms' offsets out of the inner loop
    )


def network(method: str, num_ways: int | None, width: int):
    """Conv-4 with the conventions of the method's paper."""
    from flax import linen as nn

    import metalearn as ml

    options: dict = {
        "protonet": {
            "norm": "running", "strides": 1, "pool": True, "head": "none", "epsilon": 1e-5,
            "kernel_init": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        },
        "reptile": {"head": "flatten"},
        "finetune": {"scale": False, "head": "none"},
    }.get(method, {"scale": False, "head_init": nn.initializers.normal(1.0)})  # fmt: skip
    return ml.from_linen(ml.nets.Conv4(num_ways, features=width, **options))


def load(folder: str, num_ways: int | None = None, num_steps: int | None = None):
    """The trained learner of a run folder, from its best checkpoint: `Trained(learner, params)`.

    `num_ways` and `num_steps` are by default those that the run was tested with; other ways only where the method's
    parameters do not depend on them (ProtoNet, fine-tuning).
    """
    from experiments import few_shot

    settings = few_shot.settings_of(folder, Settings)
    made = problem(settings)
    ways = num_ways or (settings.test_ways or (settings.ways,))[0]
    learner = few_shot.learner_of(
        settings, made, ways, num_steps or settings.validation_steps, batch_size=settings.test_batch
    )
    return few_shot.Trained(learner, few_shot.best_params(settings, made)[0])


if __name__ == "__main__":
    from experiments.command_line import CONV4, launch

    launch(PRESETS, main, __doc__, flags=CONV4)

"""Sinusoid regression: learn a wave from a few points. What `make demo` runs.

    python -m experiments.sinusoid PRESET [--field value …]        --help lists both

Expected: mean squared error after one adaptation step, 600 unseen waves, 70,000 meta-training steps:

    demo      MAML trained on 10 points, with both baselines: about .33 from 10 points      under 2 minutes
    paper-5   every method trained on 5 points: MAML .56 from 5 points
    paper-10  every method trained on 10 points: MAML .33 from 10 points

Weights begin as LeCun normal draws; the MAML paper's code draws them with deviation .01 instead.

A table of error against adaptation steps, adapted fits drawn, logs and checkpoints go to the run folder; the same
command resumes. `--method some.module:function` takes a learner of your own: `function(model, criterion) -> Learner`.
"""

from dataclasses import dataclass

from experiments.settings import FewShot


@dataclass(frozen=True)
class Settings(FewShot):
    """One run on sinusoids."""

    family: str = "sinusoid"
    """sinusoid, or lines_and_sines (Finn et al. 2018)."""
    hidden: tuple[int, ...] = (40, 40)
    """Widths of the hidden layers."""
    test_queries: int = 100
    folder: str = "runs/sinusoid"


_REST = ("fomaml", "anil", "meta_sgd", "finetune", "scratch")
PRESETS = {
    "demo": ("MAML and the two baselines, 10 points", Settings(beside=("finetune", "scratch"))),
    **{
        f"paper-{shots}": (
            f"every method, {shots} points, 3 seeds",
            Settings(
                beside=_REST, shots=shots, queries=shots, test_shots=(shots, *(k for k in (5, 10, 20) if k != shots)),
                seeds=(0, 1, 2), folder=f"runs/sinusoid-{shots}",
            ),
        )
        for shots in (5, 10)
    },
}  # fmt: skip
# (method, ways, shots, adaptation steps): error in the Meta-SGD paper (Li et al. 2017), trained on 5 points
PUBLISHED = {
    **{("maml", 1, k, 1): v for k, v in ((5, "1.13 ± .18"), (10, ".85 ± .14"), (20, ".71 ± .12"))},
    **{("meta_sgd", 1, k, 1): v for k, v in ((5, ".90"), (10, ".63"), (20, ".50"))},
}


def main(settings: Settings) -> None:
    """Trains, tests, draws the fits and reports."""
    from experiments import few_shot

    done = few_shot.main(settings, problem, PUBLISHED if settings.shots == 5 else {})
    draw_fits(settings, done)


def problem(s: Settings):
    """Waves as a problem: an MLP, squared error, and samplers of waves."""
    import metalearn as ml
    from experiments.command_line import nearest
    from experiments.few_shot import Problem

    families = {"sinusoid": ml.data.sinusoid, "lines_and_sines": ml.data.lines_and_sines}
    if s.family not in families:
        raise ml.InputError(f"there is no family {s.family!r}; {nearest(s.family, families)}")
    model = ml.from_linen(ml.nets.MLP([*s.hidden, 1]))

    def sampler(num_ways, num_support, num_query):
        return families[s.family](num_support=num_support, num_query=num_query)

    return Problem(
        name=s.family,
        network=lambda num_ways: model,
        criterion=ml.squared_error,
        metric="mse",
        train=sampler,
        # as many points a step as a meta-batch of the other methods has
        joint=lambda: ml.data.batched(sampler(1, s.shots + s.queries, 1), s.tasks),
        validation=sampler,
        test=sampler,
        pretrained=model,
    )


def draw_fits(settings: Settings, done: list, num_tasks: int = 3) -> None:
    """Draws what each method makes of a few unseen waves, after 0, 1 and the most adaptation steps."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments import few_shot
    from metalearn.report import adapted_fits

    shots = (settings.test_shots or (settings.shots,))[0]
    tasks = few_shot.test_tasks(done[0][1], settings.ways, shots, 2_000, num_tasks)
    grid = np.linspace(-5.0, 5.0, 200)
    order = np.argsort(tasks.query.x[..., 0], axis=1)
    seen = [np.take_along_axis(np.asarray(a[..., 0]), order, 1) for a in (tasks.query.x, tasks.query.y)]
    truth = np.stack([np.interp(grid, x, y) for x, y in zip(*seen)])
    if not any(one.method in few_shot.METHODS for one, _, _ in done):
        return
    at = sorted({0, 1, settings.test_steps[-1]})
    predictions = {}
    for one, made, params in done:
        if one.method not in few_shot.METHODS:
            continue  # a learner of the user's may have no steps to draw
        learner = few_shot.learner_of(one, made, settings.ways, at[-1], trajectory=True)

        def fits(task, learner=learner, params=params[0]):
            state = learner.adapt(params, task.support, jax.random.key(0))
            return jax.vmap(lambda p: learner.predict(state._replace(params=p), jnp.asarray(grid)[:, None]))(
                state.trajectory
            )

        drawn = jax.vmap(fits)(tasks)[..., 0]
        predictions[few_shot.title(one.method)] = {steps: np.asarray(drawn[:, steps]) for steps in at}
    support = tasks.support
    path = f"{settings.folder}/fits.png"
    adapted_fits(path, grid, truth, np.asarray(support.x[..., 0]), np.asarray(support.y[..., 0]), predictions)
    print(f"drawn: {path}")


if __name__ == "__main__":
    from experiments.command_line import launch

    launch(PRESETS, main, __doc__)

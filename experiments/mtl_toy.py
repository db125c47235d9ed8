"""Two toy problems of multi-task learning, of two losses each, whose answers are known.

    python -m experiments.mtl_toy PRESET [--field value …]        --help lists both

    valley   Nash-MTL's problem (Navon et al. 2022, arXiv 2202.01017; code by the authors): two parameters, five starts,
             Adam at .001 for 35,000 steps, the first loss a tenth of the second. Expected, as published: Nash-MTL and
             MGDA reach the Pareto set from every start; equal weighting and PCGrad stay in the valley from (9, 9).
    concave  Pareto-MTL's problem (Lin et al. 2019, arXiv 1912.12854): f = 1 - exp(-|x ∓ 1/√d|²), d = 20, whose front is
             concave. Expected: for nine preferences between 0 and 1, fixed weights reach only its two ends, smooth
             Tchebycheff scalarisation all of it.

Both take less than a minute. The folder has the figure, every path's end and a table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """One problem, and the methods that go their ways in it."""

    problem: str = "valley"
    """valley or concave."""
    methods: tuple[str, ...] = ("equal", "pcgrad", "mgda", "cagrad", "nash", "imtl_g", "upgrad", "fairgrad")
    """Aggregators of metalearn.aggregate that need no argument (equal: the mean), or some.module:function."""
    steps: int = 35_000
    rate: float = 1e-3
    scale: float = 0.1
    """Of the first loss of `valley`."""
    clip: float = 1.0
    """Nash-MTL's direction is clipped to this length before Adam, as by its authors' code; no other's is."""
    preferences: int = 11
    """How many, of `concave`."""
    seed: int = 0
    folder: str = "runs/mtl_toy-valley"


PRESETS = {
    "valley": ("Nash-MTL's toy problem", Settings()),
    "concave": (
        "Pareto-MTL's toy problem",
        Settings(
            problem="concave", methods=("fixed", "tchebycheff"), steps=3_000, rate=0.1, folder="runs/mtl_toy-concave"
        ),
    ),
}
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))


def main(settings: Settings) -> None:
    """Runs every method, draws and tabulates."""
    import metalearn as ml
    from experiments.command_line import nearest

    problems = {"valley": valley, "concave": concave}
    if settings.problem not in problems:
        raise ml.InputError(f"there is no problem {settings.problem!r}; {nearest(settings.problem, problems)}")
    if not settings.methods or settings.steps < 1 or settings.rate <= 0:
        raise ml.InputError("methods need at least one name, and steps and rate must be positive.")
    problems[settings.problem](settings)


def valley_losses(x, scale: float = 0.1):
    """Both losses of Nash-MTL's problem at `x` `[2]`; `scale` multiplies the first."""
    import jax.numpy as jnp

    upper, lower = jnp.maximum(jnp.tanh(0.5 * x[1]), 0), jnp.maximum(jnp.tanh(-0.5 * x[1]), 0)

    def wall(distance):
        return jnp.log(jnp.maximum(jnp.abs(distance), 5e-6)) + 6

    def bowl(centre):
        return ((x[0] - centre) ** 2 + 0.1 * (x[1] + 8) ** 2) / 10 - 20

    first = wall(0.5 * (-x[0] - 7) + jnp.tanh(x[1])) * upper + bowl(7) * lower
    second = wall(0.5 * (-x[0] + 3) - jnp.tanh(x[1]) + 2) * upper + bowl(-7) * lower
    return jnp.stack([scale * first, second])


def concave_losses(x):
    """Both losses of Pareto-MTL's problem at `x` `[d]`."""
    import jax.numpy as jnp

    centre = 1 / jnp.sqrt(x.shape[0])
    return 1 - jnp.exp(-jnp.stack([jnp.sum((x - centre) ** 2), jnp.sum((x + centre) ** 2)]))


def descent(losses, aggregator, optimizer, steps: int, every: int):
    """`start -> points [1 + ⌈steps / every⌉, d]` of a path under an aggregator: every so many steps, and the last."""
    import jax
    import jax.numpy as jnp

    import metalearn as ml

    def head(k):
        return lambda own, features, batch, key: (features[k], ml.Aux({}))

    heads = {f"loss {k}": head(k) for k in range(2)}

    def path(start, key):
        algorithm = ml.over_losses(
            lambda key, batch: {"shared": batch.x, "tasks": dict.fromkeys(heads, ())},
            lambda shared, batch, key: (losses(shared), None),
            heads, aggregator, optimizer,
        )  # fmt: skip
        state = algorithm.init(key, ml.Batch(start))

        def one(state, t):
            state, _ = algorithm.step(state, ml.Batch(start), jax.random.fold_in(key, t))
            return state, ()

        def several(state, t):
            state, _ = jax.lax.scan(one, state, t * every + jnp.arange(every))
            return state, state.params["shared"]

        whole = steps // every
        state, points = jax.lax.scan(several, state, jnp.arange(whole))
        state, _ = jax.lax.scan(one, state, jnp.arange(whole * every, steps))
        left = state.params["shared"][None] if steps % every else points[:0]
        return jnp.concatenate([start[None], points, left])

    return path


def valley(s: Settings) -> None:
    """Every method from all five starts."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import metalearn as ml
    from experiments.aggregators import aggregator_of, title
    from metalearn.report.trajectories import trajectories

    def losses(x):
        return valley_losses(x, s.scale)

    starts, key = jnp.array(STARTS), jax.random.key(s.seed)
    walks, ends = {}, []
    slopes = jax.jit(jax.vmap(jax.jacobian(losses)))
    for name in s.methods:
        clipped = [optax.clip_by_global_norm(s.clip)] if name == "nash" else []
        optimizer = optax.chain(*clipped, optax.adam(s.rate))
        path = descent(losses, aggregator_of(name)(), optimizer, s.steps, max(1, s.steps // 500))
        # one after another: a `while` mapped over starts would go on for the slowest
        found = np.stack([np.asarray(jax.jit(path)(start, key)) for start in starts])
        walks[title(name)] = found
        shortest = np.linalg.norm(
            jax.vmap(lambda g: ml.aggregate.mgda().update(g, ())[0])(slopes(found[:, -1])), axis=1
        )
        for start, point, slope in zip(STARTS, found[:, -1], shortest):
            ends.append((title(name), start, point, np.asarray(losses(point)), on_the_front(point, slope)))
    x, y = np.linspace(-11, 11, 150), np.linspace(-11, 11, 150)
    grid = jnp.asarray(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    height = np.asarray(jax.vmap(valley_losses, (0, None))(grid, 1.0)).mean(1).reshape(150, 150)
    front = np.stack([np.linspace(-7, 7, 50), np.full(50, bottom())], 1)
    folder = written(
        s,
        ["method", "start", "end", "losses", "on the Pareto set"],
        [[n, _point(a), _point(b), _point(v), "yes" if good else "no"] for n, a, b, v, good in ends],
        f"Nash-MTL's toy problem, first loss times {s.scale:g}, Adam at {s.rate:g}, {s.steps:,} steps.",
        [{"method": n, "start": a, "end": list(map(float, b)), "on_front": bool(g)} for n, a, b, _, g in ends],
    )
    trajectories(folder / "trajectories.png", x, y, height, walks, front)
    print(f"written: {folder / 'table.md'}, {folder / 'trajectories.png'}")


def bottom() -> float:
    """The second coordinate of the Pareto set of `valley`, where both bowls are lowest, up to a hundredth."""
    import numpy as np

    x = np.linspace(-12, -4, 8001)
    # between the minima of both; the factor tanh(-x/2), near 1, moves them hardly
    values = [np.tanh(-x / 2) * (((a - 7) ** 2 + 0.1 * (x + 8) ** 2) / 10 - 20) for a in (-7.0, 0.0, 7.0)]
    return float(np.mean([x[np.argmin(v)] for v in values]))


def on_the_front(point, shortest: float) -> bool:
    """Whether a point is on the Pareto set: stationary (the shortest combination of gradients is short), and in the
    lower half, for the valley above it has stationary points that are dominated."""
    return bool(shortest < 0.01 and abs(point[0]) < 7.1 and abs(point[1] - bottom()) < 0.3)


def concave(s: Settings) -> None:
    """Every method with preferences from one task to the other."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import metalearn as ml
    from experiments.aggregators import title
    from metalearn.report.trajectories import fronts

    start = 0.3 * jax.random.normal(jax.random.key(s.seed), (20,))
    shares = np.linspace(0, 1, s.preferences)[1:-1] if s.preferences > 2 else np.array([0.5])
    made = {
        "fixed": lambda p: ml.aggregate.fixed(jnp.stack([p, 1 - p])),
        # a higher preference lowers that loss, so that both spellings of a preference agree
        "tchebycheff": lambda p: ml.aggregate.tchebycheff(jnp.stack([p, 1 - p]), smoothness=0.01),
    }
    unknown = [name for name in s.methods if name not in made]
    if unknown:
        raise ml.InputError(f"concave needs methods that take preferences, {' or '.join(made)}, not {unknown[0]!r}.")
    reached, lines, kept = {}, [], []
    for name in s.methods:

        def end(share, name=name):
            path = descent(concave_losses, made[name](share), optax.sgd(s.rate), s.steps, s.steps)
            return concave_losses(path(start, jax.random.key(s.seed))[-1])

        points = np.asarray(jax.jit(jax.vmap(end))(jnp.asarray(shares)))
        reached[title(name)] = points
        middle = int(np.sum((points[:, 0] > 0.1) & (points[:, 1] > 0.1)))
        lines.append(
            [title(name), f"{len(points)}", f"{middle}", f"{points[:, 0].min():.3f} to {points[:, 0].max():.3f}"]
        )
        kept.append(
            {"method": title(name), "preferences": shares.tolist(), "losses": points.tolist(), "between": middle}
        )
    along = np.linspace(-1, 1, 200)[:, None] / np.sqrt(20) * np.ones((1, 20))
    front = np.asarray(jax.vmap(concave_losses)(jnp.asarray(along)))
    folder = written(
        s, ["method", "preferences", "between the ends", "first loss"], lines,
        f"Pareto-MTL's concave problem, gradient descent at {s.rate:g}, {s.steps:,} steps; between the ends: both "
        "losses above .1.", kept,
    )  # fmt: skip
    fronts(folder / "fronts.png", reached, front)
    print(f"written: {folder / 'table.md'}, {folder / 'fronts.png'}")


def written(s: Settings, titles: list, cells: list, caption: str, results: list):
    """Prints the table and writes it, the settings and the results; returns the folder."""
    import json
    from pathlib import Path

    import jax
    from rich.console import Console
    from rich.table import Table as Grid

    from metalearn.host import provenance
    from metalearn.report.tables import Table, markdown

    provenance.make_folder(s.folder)
    provenance.begin(s.folder, s, jax.random.key(s.seed))
    folder = Path(s.folder)
    (folder / "table.md").write_text(markdown(Table("", caption, titles, titles, cells, [])))
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    grid = Grid(*titles, box=None, padding=(0, 2, 0, 0))
    for line in cells:
        grid.add_row(*line)
    Console(width=100, highlight=False).print(grid)
    return folder


def _point(x) -> str:
    return "(" + ", ".join(f"{float(v):.2f}" for v in x) + ")"


if __name__ == "__main__":
    from experiments.command_line import launch

    launch(PRESETS, main, __doc__)

"""The host side of training: logs, checkpoints, going on after a stop, and stopping in good order.

Which key goes where is written in `metalearn.host.steps`. No number depends on the clock, or on where a run was
interrupted.
"""

import contextlib
import difflib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn import mapping as ways
from metalearn.arguments import whole
from metalearn.core import Algorithm, InputError, Key, Metrics
from metalearn.host import checkpoint, interrupts, keys, lock, logs, processes, provenance
from metalearn.host.progress import shown
from metalearn.host.steps import BAD_TASK, programs

_SOON = 100  # steps after which a task should have been seen
_APART = 1e4  # between two tasks' losses, from which on it is said
_SECONDS = 30.0  # between checkpoints, where nobody says how many steps


class NonFiniteLoss(FloatingPointError):
    """The training loss or the state is no longer finite; the message names the step and the last good checkpoint."""


def run(
    algorithm: Algorithm,
    sample: Callable[[Key], Any],
    num_steps: int,
    *,
    key: Key,
    mapping: ways.Mapping | None = None,
    evaluate: Callable[[Any, Key], Metrics] | None = None,
    every: int | None = None,
    log_every: int = 100,
    checkpoint_every: int | None = None,
    folder: str | Path | None = None,
    config: Any = None,
    free: Sequence[str] = ("num_steps", "progress", "folder"),
    keep: int = 3,
    best: str | None = None,
    progress: bool = True,
    tensorboard: bool = True,
) -> tuple[Any, list[logs.Record]]:
    """Trains for `num_steps` steps, or goes on where an earlier call with the same folder stopped.

    Args:
      algorithm: `init(key, batch) -> state` and `step(state, batch, key) -> (state, metrics)`. Metrics that begin
        with `per_task/` are not logged, arrays are logged as their mean, over steps too, in which NaN has no part. A
        metric named `loss` must stay finite.
      sample: `key -> batch`, traced once into the compiled step: all its randomness must come from the key (NumPy's
        would be drawn once, and every step see the same batch). Arrays that a `jax.tree_util.Partial` holds, as those
        of `metalearn.data` do, must be the same when a run goes on.
      num_steps: how many steps the state has behind it in the end.
      key: a typed key, or `[S]` keys: then S seeds are trained at once, every leaf of the state has a leading `[S]`
        and every logged value is a list of S.
      mapping: of the seeds, all at once unless given. `scanned()` trains them in turn within each step, which takes the
        memory of one and is the faster for networks of convolutions on a CPU.
      evaluate: `(state, key) -> metrics`, compiled here; called after every `every` steps and after the last.
      every: steps between evaluations; None means only after the last.
      log_every: steps averaged in one record. Steps run in compiled chunks of at most this many.
      checkpoint_every: steps between checkpoints; `every` unless given. Without either, a checkpoint follows the first
        record that is 30 seconds or more after the last one, so that saving costs nothing beside fast steps.
      folder: where everything of the run goes: `config.json`, `environment.json`, `log.jsonl`, `tensorboard/`,
        `checkpoints/`. None keeps nothing.
      config: a dict or dataclass that describes the run. Going on with another is refused, except for the top-level
        fields in `free`.
      keep: how many of the last checkpoints to keep, besides the best.
      best: the evaluated metric that chooses the best checkpoint: `"accuracy"` (the default where there is one),
        `"loss"` (the second), or any other as `"max:name"` or `"min:name"`. Seeds are averaged.
      progress: False prints nothing but warnings.
      tensorboard: also write TensorBoard events, where `tensorboardX` is installed.

    Returns:
      The state, and the history: one record a chunk, `{"step", "train/…", "time", "steps_per_second"}`, and one an
      evaluation, `{"step", "validation/…"}`, in order; `metalearn.host.logs.column` makes arrays of them.

    Raises:
      InputError: an argument cannot be used, or the folder cannot be written to, holds a run of another config, key or
        data, is another run's at this moment, is further on than `num_steps`, or has only damaged checkpoints.
      NonFiniteLoss: the loss or the state is no longer finite; it is not saved, and the checkpoints before it stay.
      KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM (code 143), with the chunk finished and saved.

    Example:

        state, history = run(algorithm, sample, 1000, key=jax.random.key(0), folder="runs/first")
        steps, losses = column(history, "train/loss")
    """
    every = None if every is None else whole("every", every)
    progress = progress and processes.leads()
    num_steps, log_every, keep = whole("num_steps", num_steps), whole("log_every", log_every), whole("keep", keep)
    checkpoint_every = every if checkpoint_every is None else whole("checkpoint_every", checkpoint_every)
    _check_key(key)
    compiled = programs(algorithm, sample, evaluate, key, log_every, mapping)
    score = _scoring(best, compiled.evaluated)

    with contextlib.ExitStack() as held:
        step, state = 0, None
        history: list[logs.Record] = []
        if folder is not None:
            step, state, history = _earlier(held, folder, compiled.like, sample, config, key, free)
            if step > num_steps:
                raise InputError(f"num_steps: is {num_steps}, and {folder} is at step {step} already; choose another.")
            if step == num_steps:
                return state, history
            if step:
                if processes.leads():
                    provenance.again(folder, config, key, step)
                if progress:
                    _say(f"resuming from step {step} ({folder})")
        state = compiled.init(key) if state is None else state
        finite = _finite(state)
        periods = [period for period in (log_every, every, checkpoint_every) if period]
        began = time.perf_counter() - max((line["time"] for line in history if "time" in line), default=0.0)

        with (
            _kept(folder, step, keep, tensorboard) as kept,
            shown(num_steps, step, progress) as show,
            interrupts.deferred(folder is not None) as interrupted,
        ):
            newest: dict[str, Any] = {}
            signal, saved = None, time.perf_counter()
            told: set[str] = set()
            while step < num_steps and not signal:
                count = min(num_steps, *((step // period + 1) * period for period in periods)) - step
                start = time.perf_counter()
                state, metrics = compiled.advance(state, key, step, count)
                now = time.perf_counter()
                bad_tasks = metrics.pop(BAD_TASK, None)  # for a message, not for the log
                if bad := _bad_loss(metrics, bad_tasks, step):
                    raise kept.spoiled(bad)
                step += count
                means = {name: _mean(values) for name, values in metrics.items()}
                doubts = {"apart": _far_apart(means)}
                if step >= min(_SOON, num_steps):
                    doubts |= {"empty": _without_data(history, means, step), "zero": _zero(history, means, step)}
                for kind, sentence in doubts.items():
                    if sentence and kind not in told and processes.leads():
                        told.add(kind)
                        _say(f"warning: {sentence}")
                speed = {"time": round(now - began, 3), "steps_per_second": round(count / (now - start), 3)}
                records = [logs.record(step, "train", means) | speed]
                result: Mapping[str, Any] = {}
                if evaluate is not None and (step == num_steps or (every is not None and step % every == 0)):
                    result = compiled.evaluate(state, key)
                    records.append(logs.record(step, "validation", result))
                for line in records:
                    newest |= line
                    history.append(line)
                    kept.write(line)
                show(step, newest)
                signal = processes.agreed(interrupted())
                due = step % checkpoint_every == 0 if checkpoint_every else _long_ago(saved)
                if step == num_steps or (folder is not None and (due or signal)):
                    if bad := _bad_state(state, finite, step):
                        raise kept.spoiled(bad)
                    if folder is not None:
                        kept.save(step, processes.on_host(state), score(result))
                    saved = time.perf_counter()
            kept.wait()
            signal = processes.agreed(interrupted())
        if signal:
            _say(
                f"interrupted and saved at step {step} of {num_steps}; the same command goes on from there ({folder})."
            )
            interrupts.leave(signal)
        return state, history


def _long_ago(saved: float) -> bool:
    """The same for all processes, by the clock of any."""
    return bool(processes.agreed(int(time.perf_counter() - saved >= _SECONDS)))


class _Kept(NamedTuple):
    """What goes into the folder; without one, nothing does."""

    write: Callable[[logs.Record], None] = lambda line: None
    save: Callable[[int, Any, float | None], None] = lambda step, state, score: None
    wait: Callable[[], None] = lambda: None
    spoiled: Callable[[str], NonFiniteLoss] = lambda bad: NonFiniteLoss(
        f"{bad}; nothing was saved, because no folder was given."
    )


@contextlib.contextmanager
def _kept(folder: str | Path | None, step: int, keep: int, tensorboard: bool) -> Iterator[_Kept]:
    if folder is None:
        yield _Kept()
        return
    if not processes.leads():
        yield _Kept(spoiled=lambda bad: NonFiniteLoss(f"{bad}; process 0 says what was kept in {folder}."))
        return
    with contextlib.ExitStack() as stack:
        log = logs.open_log(folder, step, tensorboard=tensorboard)
        stack.callback(log.close)
        saver = checkpoint.saver(folder, keep=keep)
        stack.callback(saver.close)

        def save(step: int, state: Any, score: float | None) -> None:
            log.sync()  # a checkpoint must never be ahead of the log
            saver.save(step, state, score)

        def spoiled(bad: str) -> NonFiniteLoss:
            saver.wait()
            found = checkpoint.steps(folder)
            what = f"the last good checkpoint is that of step {found[-1]}" if found else "no checkpoint was saved yet"
            return NonFiniteLoss(f"{bad}; {what} in {folder}.")

        yield _Kept(log.write, save, saver.wait, spoiled)


def _earlier(
    held: contextlib.ExitStack,
    folder: str | Path,
    like: Callable[[], Any],
    sample: Any,
    config: Any,
    key: Key,
    free: Sequence[str],
) -> tuple[int, Any, list[logs.Record]]:
    """What the folder holds of this run: step, state and history. Lines after that step are removed. The folder is this
    process's own until `held` is closed."""

    def read():
        provenance.make_folder(folder)
        held.enter_context(lock.alone(folder))
        log = Path(folder) / "log.jsonl"
        if not checkpoint.steps(folder):
            provenance.begin(folder, config, key, sample)
            return (0, logs.resume(log, 0)), None
        provenance.check(folder, config, key, sample, free=free)
        warn = lambda sentence: _say(f"warning: {sentence}")  # noqa: E731
        state, step = checkpoint.restore(folder, jax.tree.map(_like_on_host, like()), warn=warn)
        checkpoint.set_aside(folder, step)
        return (step, logs.resume(log, step)), state

    (step, history), state = processes.from_lead(read, like)
    return step, state if state is None else jax.tree.map(_put, state, like()), history


def _like_on_host(shape: Any) -> Any:
    """What asks `restore` for a NumPy array, without the memory of one."""
    shape = keys.numbers(shape)
    return np.broadcast_to(np.zeros((), shape.dtype), shape.shape)


def _put(value: Any, shape: Any) -> Any:
    """A copy on the devices: on CPU these could otherwise share the buffer that NumPy owns, and donating it would
    free it twice."""
    if keys.is_key(shape):  # to begin with its numbers
        return jax.jit(lambda value: keys.like(value, shape), out_shardings=shape.sharding)(value)
    return jnp.array(value) if shape.sharding is None else jax.device_put(jnp.array(value), shape.sharding)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _check_key(key: Any) -> None:
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim > 1:
        had = f"dtype {key.dtype} and shape {key.shape}" if hasattr(key, "dtype") else repr(key)
        raise InputError(f"key: has {had}; expected jax.random.key(seed) or a vector of such keys.")


def _scoring(best: str | None, names: Sequence[str]) -> Callable[[Mapping[str, Any]], float | None]:
    """The score of an evaluation, higher being better; None where nothing was evaluated."""
    if best is None:
        best = next((name for name in ("accuracy", "loss") if name in names), None)
        if best is None:
            return lambda result: None
    sign, colon, name = best.partition(":")
    if not colon or sign not in ("max", "min"):
        sign, name = {"accuracy": "max", "loss": "min"}.get(best, ""), best
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0) or ["nothing"]
        raise InputError(f"best: {name!r} is not evaluated; expected one of {', '.join(near)}.")
    if not sign:
        raise InputError(f"best: {best!r} could be better high or low; expected 'max:{best}' or 'min:{best}'.")
    factor = 1.0 if sign == "max" else -1.0
    return lambda result: factor * float(np.mean(result[name])) if result else None


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over steps of `[count, ...]`; what is NaN there was not measured."""
    measured = ~np.isnan(values)
    total = np.where(measured, values, 0).sum(0, np.float64)
    return np.where(measured.any(0), total / np.maximum(measured.sum(0), 1), np.nan)


def _bad_loss(metrics: Mapping[str, np.ndarray], tasks: np.ndarray | None, step: int) -> str | None:
    """`metrics` are those of the steps after `step`, `[count]` or `[count, S]`, and `tasks` the first in each step that
    has such a loss."""
    losses = metrics.get("loss")
    if losses is None or np.isfinite(losses).all():
        return None
    first = tuple(np.argwhere(~np.isfinite(losses))[0])
    seed = f" of seed {first[1]}" if len(first) > 1 else ""
    parts = [f"{name} {values[first]:.4g}" for name, values in metrics.items() if name.endswith("/loss")]
    if tasks is not None and tasks[first] >= 0:
        parts.append(f"first in task {tasks[first]}")
    of = f" ({', '.join(parts)})" if parts else ""
    at = step + first[0] + 1
    look = (
        "; at the first step, look for labels beyond the outputs, ids beyond the table and inputs that are not finite"
    )
    why = look if at == 1 else ""
    return f"The loss{seed} is {losses[first]} at step {at}{of}{why}"


def _far_apart(means: Mapping[str, Any]) -> str | None:
    """One sentence where tasks' losses differ so much that their mean is the largest alone."""
    measured = {name: np.asarray(value, float) for name, value in means.items() if name.endswith("/loss")}
    losses = {name: float(abs(np.nanmean(value))) for name, value in measured.items() if not np.isnan(value).all()}
    losses = {name: value for name, value in losses.items() if value > 0}
    if len(losses) < 2 or max(losses.values()) < _APART * min(losses.values()):
        return None
    small, large = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
    return (
        f"losses lie far apart: {large} is {losses[large]:.3g} and {small} {losses[small]:.3g}; a mean follows {large}."
    )


def _without_data(history: list[logs.Record], means: Mapping[str, Any], step: int) -> str | None:
    """One sentence where a task's loss has never been measured, before a resume neither."""

    def measured(value):
        return not np.isnan(np.asarray(value, float)).all()

    missing = [name for name, value in means.items() if name.endswith("/loss") and not measured(value)]
    never = [n for n in missing if not any(measured(line.get(f"train/{n}", np.nan)) for line in history)]
    names = ", ".join(name.removesuffix("/loss") for name in never)
    return f"{step} steps without an example of {names}, of which nothing is learned." if names else None


def _zero(history: list[logs.Record], means: Mapping[str, Any], step: int) -> str | None:
    """One sentence where no step ever had a loss, as with weights or masks that are all zero."""
    if np.any(means.get("loss", np.nan)) or any(np.any(line.get("train/loss", 0)) for line in history):
        return None
    return f"the loss was exactly 0 in each of {step} steps; where all weights or masks are 0, nothing is learned."


def _finite(state: Any) -> list[bool]:
    """Which leaves hold only finite numbers; other kinds of leaves do not count."""

    def finite(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return False
        # what lies on several hosts is looked at where it lies
        return bool(np.isfinite(np.asarray(leaf)).all() if processes.readable(leaf) else jnp.isfinite(leaf).all())

    return [finite(leaf) for leaf in jax.tree.leaves(state)]


def _bad_state(state: Any, finite: Sequence[bool], step: int) -> str | None:
    """A leaf that was finite must stay so: the loss of the last step says nothing of what that step did."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    bad = [name for name, was, is_ in zip(names, finite, _finite(state), strict=True) if was and not is_]
    return f"The state's {bad[0]} is not finite after step {step}" if bad else None

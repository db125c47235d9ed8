"""Checkpoints of a run: saved in the background, verified when read. The only file that imports Orbax.

A checkpoint is `folder/checkpoints/<step>` with two items. `state` holds one array of bytes, the leaves one after
another; `digest` is a JSON object that names each leaf in this order and gives its shape, dtype and checksum, so that
a damaged file is noticed however it was damaged. One array is saved twice as fast as sixty, and when it cannot be read
no other reads are left behind. Classes are not stored: renaming a NamedTuple loses nothing.
"""

import json
import math
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.core import InputError
from metalearn.host import keys


class Damaged(Exception):
    """A checkpoint that is not what was saved."""


class _Leaf(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: str
    crc32: int


class _Best(NamedTuple):
    """An Orbax preservation policy: the checkpoint with the highest score; of equals, the latest."""

    scores: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        best = _best_step(self.scores, [checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]


class Saver(NamedTuple):
    """Saves checkpoints of one run. `save(step, state, score=None)` returns as soon as the state is copied.

    The state's buffers may be donated after that. `wait()` returns when what was saved is on disk; `close()` waits
    and frees everything. A higher score is a better checkpoint.
    """

    save: Callable[..., None]
    wait: Callable[[], None]
    close: Callable[[], None]


def saver(folder: str | Path, *, keep: int = 3) -> Saver:
    """Opens `folder/checkpoints` for saving; keeps the last `keep` checkpoints and the one with the highest score.

    What an earlier process left half-written is removed; damaged checkpoints and their files stay.
    """
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers
    _path(folder).mkdir(parents=True, exist_ok=True)
    scores = {step: score for step in steps(folder) if (score := _score(_path(folder, step))) is not None}
    manager = ocp.CheckpointManager(
        _path(folder).absolute(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), _Best(scores)]),
            create=False,
            cleanup_tmp_directories=True,
            lightweight_initialize=True,  # reads no metadata, which could be damaged
            **_alone(),
        ),
    )

    def save(step: int, state: Any, score: float | None = None) -> None:
        leaves = _on_host(state)
        digest = _sealed({"step": step, "score": score, "leaves": [leaf._asdict() for leaf in _digest(leaves)]})
        if score is not None:
            scores[step] = score
        content = np.concatenate([*(_bytes(leaf) for _, leaf in leaves), np.zeros(1, np.uint8)])  # Orbax wants one
        manager.save(
            step,
            args=ocp.args.Composite(digest=ocp.args.JsonSave(digest), state=ocp.args.PyTreeSave({"bytes": content})),
            force=True,
        )

    return Saver(save, manager.wait_until_finished, manager.close)


def steps(folder: str | Path) -> list[int]:
    """The steps of which `folder` has a finished checkpoint, in order; damaged ones count."""
    root = _path(folder)
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def restore(
    folder: str | Path,
    like: Any,
    *,
    step: int | str | None = None,
    warn: Callable[[str], None] = lambda sentence: print(f"warning: {sentence}", file=sys.stderr),
) -> tuple[Any, int]:
    """Reads the state that a run saved, and the step it is from.

    Args:
      folder: the run's folder.
      like: a pytree with the structure, shapes and dtypes of the state, of arrays or `jax.ShapeDtypeStruct`, such as
        `jax.eval_shape(algorithm.init, key, batch)`. Arrays that are committed to devices say where the leaf goes.
      step: a step, `"last"` (also None), or `"best"` by the metric that the run went by.
      warn: receives one sentence for each damaged checkpoint that was passed over. A step asked for by its number has
        no replacement.

    Raises:
      InputError: there is no such checkpoint, none is undamaged, or a leaf's shape or dtype is not that of `like`.

    Example:

        state, step = restore("runs/omniglot", like, step="best")
    """
    wanted = _order(folder, step)
    reasons = []
    for i, candidate in enumerate(wanted):
        try:
            return _read(_path(folder, candidate), like), candidate
        except Damaged as damage:
            reasons.append(str(damage))
            if i + 1 < len(wanted):
                warn(
                    f"checkpoint {candidate} in {folder} is damaged ({damage}), so checkpoint {wanted[i + 1]} is used."
                )
    tried = ", ".join(f"step {candidate}: {reason}" for candidate, reason in zip(wanted, reasons, strict=True))
    raise InputError(f"folder: {folder} has no checkpoint that can be read ({tried}); choose another folder.")


def set_aside(folder: str | Path, after: int) -> None:
    """Moves the checkpoints of later steps than `after`, all damaged, to `folder/damaged`."""
    for step in [step for step in steps(folder) if step > after]:
        target = Path(folder) / "damaged" / str(step)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        _path(folder, step).rename(target)


def _alone() -> dict[str, Any]:
    """Keeps Orbax from waiting for processes that do not save: one process has gathered the whole state."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return {}
    own = jax.process_index()
    return {
        "multiprocessing_options": ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
        )
    }


def _path(folder: str | Path, step: int | None = None) -> Path:
    root = Path(folder) / "checkpoints"
    return root if step is None else root / str(step)


def _order(folder: str | Path, step: int | str | None) -> list[int]:
    """The steps to try, the most wanted first."""
    found = steps(folder)
    if not found:
        raise InputError(f"folder: {folder} has no checkpoint; expected the folder of a run that saved one.")
    if step is None or step == "last":
        return found[::-1]
    if step == "best":
        scores = {s: score for s in found if (score := _score(_path(folder, s))) is not None}
        if not scores:
            raise InputError(f"step: no checkpoint in {folder} was evaluated, so none is the best; ask for 'last'.")
        return sorted(scores, key=lambda s: _rank(scores, s), reverse=True)
    if step in found:
        return [int(step)]
    raise InputError(f"step: {folder} has no checkpoint of step {step}; it has {', '.join(map(str, found))}.")


def _rank(scores: Mapping[int, float], step: int) -> tuple[float, int]:
    score = scores[step]
    return (-math.inf if math.isnan(score) else score, step)


def _best_step(scores: Mapping[int, float], found: Sequence[int]) -> int | None:
    return max((step for step in found if step in scores), key=lambda step: _rank(scores, step), default=None)


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _on_host(tree: Any) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(keys.numbers(leaf))) for name, leaf in _named(tree)]


def _bytes(leaf: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


def _digest(leaves: Sequence[tuple[str, np.ndarray]]) -> list[_Leaf]:
    return [_Leaf(name, leaf.shape, str(leaf.dtype), zlib.crc32(_bytes(leaf).data)) for name, leaf in leaves]


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    return {"content": content, "crc32": zlib.crc32(json.dumps(content, sort_keys=True).encode())}


def _opened(path: Path) -> dict[str, Any]:
    """The content of a digest, or Damaged."""
    try:
        sealed = json.loads((path / "digest" / "metadata").read_text())
        if _sealed(sealed["content"]) == sealed:
            return sealed["content"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise Damaged("its digest is missing or damaged")


def _score(path: Path) -> float | None:
    try:
        return _opened(path)["score"]
    except Damaged:
        return None


def _read(path: Path, like: Any) -> Any:
    saved = [_Leaf(**{**leaf, "shape": tuple(leaf["shape"])}) for leaf in _opened(path)["leaves"]]
    expected = _named(like)
    _check(expected, {leaf.name: leaf for leaf in saved})
    content, values, start = _read_bytes(path), {}, 0
    for leaf in saved:
        dtype = jnp.dtype(leaf.dtype)  # knows bfloat16 by its name
        part = content[start : start + math.prod(leaf.shape) * dtype.itemsize]
        start += part.size
        if zlib.crc32(part.data) != leaf.crc32:
            raise Damaged(f"its leaf {leaf.name} is not what was saved")
        values[leaf.name] = part.copy().view(dtype).reshape(leaf.shape)
    return jax.tree.unflatten(jax.tree.structure(like), [_placed(values[name], leaf) for name, leaf in expected])


def _read_bytes(path: Path) -> np.ndarray:
    import orbax.checkpoint as ocp

    as_numpy = ocp.args.PyTreeRestore({"bytes": 0}, restore_args={"bytes": ocp.RestoreArgs(restore_type=np.ndarray)})
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**_alone()), **_alone()) as reader:
            return np.asarray(reader.restore((path / "state").absolute(), args=as_numpy)["bytes"])
    except Exception as error:  # whatever a damaged file makes Orbax or TensorStore raise
        raise Damaged("its files are missing or damaged") from error


def _check(expected: Sequence[tuple[str, Any]], saved: Mapping[str, _Leaf]) -> None:
    for name, leaf in expected:
        if name not in saved:
            raise InputError(f"like: the checkpoint has no leaf {name}; expected the structure that was saved.")
        leaf = keys.numbers(leaf)
        if np.shape(leaf) != saved[name].shape:
            raise InputError(
                f"like: leaf {name} has shape {np.shape(leaf)}, and the checkpoint has {saved[name].shape}."
            )
        if hasattr(leaf, "dtype") and str(leaf.dtype) != saved[name].dtype:
            raise InputError(f"like: leaf {name} has dtype {leaf.dtype}, and the checkpoint has {saved[name].dtype}.")
    if extra := sorted(set(saved) - {name for name, _ in expected}):
        raise InputError(f"like: it has no leaf {extra[0]}, which the checkpoint has; expected the saved structure.")


def _placed(value: np.ndarray, leaf: Any) -> Any:
    """The value as the kind of thing that `leaf` is, where `leaf` is."""
    if keys.is_key(leaf):
        return keys.like(value, leaf)
    if isinstance(leaf, bool | int | float | complex):
        return type(leaf)(value.item())
    if isinstance(leaf, np.ndarray | np.generic):
        return value
    sharding = getattr(leaf, "sharding", None)
    committed = getattr(leaf, "committed", sharding is not None)
    # A copy, because on CPU the device could share the buffer that NumPy owns, and donating it would free it twice.
    return jnp.array(value) if sharding is None or not committed else jax.device_put(jnp.array(value), sharding)

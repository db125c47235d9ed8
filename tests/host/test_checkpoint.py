"""Checkpoints come back bit for bit, or are refused; whatever is damaged is noticed."""

import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.core import InputError, Statistic
from metalearn.host import checkpoint


class Inner(NamedTuple):
    weights: dict
    running: Statistic


class Everything(NamedTuple):
    inner: Inner
    opt_state: tuple
    key: jax.Array
    keys: jax.Array
    flag: jax.Array
    count: int
    rate: float
    host: np.ndarray
    nothing: None = None


def make(seed):
    key = jax.random.key(seed)
    weights = {
        "dense/0": jax.random.normal(key, (3, 2)),
        "half": jnp.arange(5, dtype=jnp.bfloat16) + seed,
        "empty": jnp.zeros((0, 4)),
        "scalar": jnp.float32(seed) / 3,
    }
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(1.0, 0.1, 10)))
    return Everything(
        Inner(weights, Statistic(jnp.full(4, seed + 0.1))),
        optimizer.init(weights),
        key,
        jax.random.split(jax.random.key(seed, impl="rbg"), 2),
        jnp.array(seed % 2 == 1),
        seed,
        seed / 7,
        np.arange(seed, seed + 3),
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y), path
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        assert np.asarray(x).dtype == np.asarray(y).dtype


def save(folder, steps, scores=None, keep=3):
    saver = checkpoint.saver(folder, keep=keep)
    for step in steps:
        saver.save(step, make(step), (scores or {}).get(step))
    saver.close()


def test_a_tree_of_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, [1, 2])
    state, step = checkpoint.restore(tmp_path, make(0))
    assert step == 2
    assert_same(state, make(2))
    assert_same(checkpoint.restore(tmp_path, make(0), step=1)[0], make(1))


def test_shapes_alone_are_enough_to_restore(tmp_path):
    whole = make(3)
    arrays = whole._replace(count=None, rate=None, host=None)
    saver = checkpoint.saver(tmp_path)
    saver.save(3, arrays)
    saver.close()
    like = jax.eval_shape(lambda: make(0)._replace(count=None, rate=None, host=None))
    assert_same(checkpoint.restore(tmp_path, like)[0], arrays)


def test_a_state_with_nothing_in_it(tmp_path):
    saver = checkpoint.saver(tmp_path)
    saver.save(1, {"empty": jnp.zeros((0,)), "none": None})
    saver.close()
    state, step = checkpoint.restore(tmp_path, {"empty": jnp.ones((0,)), "none": None})
    assert step == 1
    assert state["empty"].shape == (0,)


def test_saving_copies_before_the_buffers_are_donated(tmp_path):
    saver = checkpoint.saver(tmp_path)
    twice = jax.jit(lambda x: x * 2, donate_argnums=0)
    x = jnp.arange(100_000.0)
    for step in range(3):
        saver.save(step, {"x": x})
        x = twice(x)
    saver.close()
    for step in range(3):
        state, _ = checkpoint.restore(tmp_path, {"x": x}, step=step)
        np.testing.assert_array_equal(state["x"], np.arange(100_000.0) * 2**step)


def test_a_restored_state_may_be_donated(tmp_path):
    saver = checkpoint.saver(tmp_path)
    saver.save(1, {"x": jnp.arange(1000.0)})
    saver.close()
    state, _ = checkpoint.restore(tmp_path, {"x": jnp.zeros(1000)})
    grown = jax.jit(lambda s: {"x": s["x"] + 1}, donate_argnums=0)(state)
    np.testing.assert_array_equal(grown["x"], np.arange(1000.0) + 1)


def test_committed_arrays_say_where_leaves_go(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    n = 4 * jax.device_count()
    x = jax.device_put(jnp.arange(float(n)), sharding)
    saver = checkpoint.saver(tmp_path)
    saver.save(1, {"x": x})
    saver.close()
    state, _ = checkpoint.restore(tmp_path, {"x": x})
    assert state["x"].sharding == sharding
    np.testing.assert_array_equal(state["x"], np.arange(float(n)))
    state, _ = checkpoint.restore(tmp_path, {"x": jnp.zeros(n)})
    assert len(state["x"].devices()) == 1
    assert not state["x"].committed


@pytest.mark.parametrize("reopened", [False, True])
def test_the_last_ones_and_the_best_are_kept(tmp_path, reopened):
    scores = {1: 0.2, 2: 0.9, 3: float("nan"), 4: 0.9, 5: 0.1, 7: 0.3}
    if reopened:
        save(tmp_path, [1, 2, 3, 4], scores, keep=2)
        assert checkpoint.steps(tmp_path) == [3, 4]
        save(tmp_path, [5, 6, 7, 8], scores, keep=2)
    else:
        save(tmp_path, range(1, 9), scores, keep=2)
    assert checkpoint.steps(tmp_path) == [4, 7, 8]
    assert checkpoint.restore(tmp_path, make(0), step="best")[1] == 4
    assert checkpoint.restore(tmp_path, make(0), step="last")[1] == 8
    with pytest.raises(InputError, match="no checkpoint of step 5; it has 4, 7, 8"):
        checkpoint.restore(tmp_path, make(0), step=5)


def test_what_cannot_be_asked_for(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint"):
        checkpoint.restore(tmp_path, make(0))
    save(tmp_path, [1])
    with pytest.raises(InputError, match="none is the best"):
        checkpoint.restore(tmp_path, make(0), step="best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(flag=jnp.zeros(2, bool)), r"leaf \.flag has shape \(2,\), and the checkpoint has \(\)"),
        (lambda s: s._replace(flag=jnp.zeros((), int)), r"leaf \.flag has dtype int32, and the checkpoint has bool"),
        (lambda s: s._replace(nothing=jnp.zeros(2)), r"the checkpoint has no leaf \.nothing"),
        (lambda s: s._replace(flag=None), r"has no leaf \.flag"),
        (
            lambda s: s._replace(keys=jax.random.key(0)),
            r"leaf \.keys has shape \(2,\), and the checkpoint has \(2, 4\)",
        ),
    ],
)
def test_another_structure_is_refused_by_the_name_of_the_leaf(tmp_path, change, message):
    save(tmp_path, [1])
    with pytest.raises(InputError, match=message):
        checkpoint.restore(tmp_path, change(make(0)))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


HARMS = {
    "flip": flip,
    "truncate": truncate,
    "remove": lambda path: path.unlink(),
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_no_damage_to_any_file_goes_unnoticed(tmp_path, harm):
    """Each file of a checkpoint in turn; either nothing was lost, or the one before is used and a sentence says so."""
    save(tmp_path, [1, 2])
    newest = tmp_path / "checkpoints" / "2"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) >= 6
    noticed = []
    shutil.copytree(newest, tmp_path / "copy")
    for file in files:
        harm(newest / file)
        said = []
        state, step = checkpoint.restore(tmp_path, make(0), warn=said.append)
        assert_same(state, make(step))
        assert len(said) == (step == 1)
        if step == 1:
            noticed.append(file)
            assert "checkpoint 2" in said[0]
            assert said[0].endswith("so checkpoint 1 is used.")
        save(tmp_path, [])  # opening for more is possible beside damage
        shutil.rmtree(newest)
        shutil.copytree(tmp_path / "copy", newest)
    assert len(noticed) >= 3  # among them the digest and the arrays


def test_a_flipped_bit_in_any_place_of_the_data_is_noticed(tmp_path):
    save(tmp_path, [1, 2])
    newest = tmp_path / "checkpoints" / "2"
    data = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = data.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 20):
        changed = bytearray(content)
        changed[place] ^= 1
        data.write_bytes(bytes(changed))
        state, step = checkpoint.restore(tmp_path, make(0), warn=lambda sentence: None)
        assert_same(state, make(step))


def test_silent_corruption_is_found_by_the_digest_alone(tmp_path):
    """A whole, valid array of other values, as TensorStore cannot tell."""
    save(tmp_path, [1, 2, 3])
    root = tmp_path / "checkpoints"
    shutil.rmtree(root / "3" / "state")
    shutil.copytree(root / "2" / "state", root / "3" / "state")
    said = []
    state, step = checkpoint.restore(tmp_path, make(0), warn=said.append)
    assert step == 2
    assert "is not what was saved" in said[0]
    assert_same(state, make(2))


def test_when_nothing_is_whole_the_user_is_told(tmp_path):
    save(tmp_path, [1, 2])
    for step in (1, 2):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "state")
    said = []
    with pytest.raises(InputError, match=r"no checkpoint that can be read \(step 2: .*, step 1: .*\)"):
        checkpoint.restore(tmp_path, make(0), warn=said.append)
    assert len(said) == 1
    with pytest.raises(InputError, match="step 2"):
        checkpoint.restore(tmp_path, make(0), step=2)


def test_damaged_ones_are_set_aside_and_not_deleted(tmp_path):
    save(tmp_path, [1, 2, 3])
    checkpoint.set_aside(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [1]
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["2", "3"]
    save(tmp_path, [2])
    assert checkpoint.steps(tmp_path) == [1, 2]


def test_a_save_that_was_cut_short_is_no_checkpoint(tmp_path):
    save(tmp_path, [1])
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", half)
    assert checkpoint.steps(tmp_path) == [1]
    save(tmp_path, [2])
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert not half.exists()

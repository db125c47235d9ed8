import builtins
import io
import os
import time

import jax
import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.data import _omniglot as module
from metalearn.data import batched, clients, everyone, few_shot, omniglot, partitions
from metalearn.data._cache import cache_folder


@pytest.fixture
def cache():
    """The user's own cache, filled if it is not; or a skip, saying why. What damages one works on a copy."""
    try:
        omniglot()
    except InputError as error:
        pytest.skip(str(error))
    return cache_folder()


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither a cache nor data."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.mark.parametrize(("split", "sizes"), [("paper", (1100, 100, 423)), ("tfds", (864, 100, 659))])
def test_splits(cache, split, sizes):
    parts = omniglot(split, seed=1)
    assert tuple(len(part.names) for part in parts) == sizes
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == 1623
    for part in parts:
        assert part.images.shape == (len(part.names), 20, 28, 28)
        assert part.images.dtype == np.uint8
        for group in np.unique(part.group):  # a name is its alphabet and a number
            alphabet = {name.rsplit("_", 1)[0] for name, g in zip(part.names, part.group, strict=True) if g == group}
            assert len(alphabet) == 1
    assert len(set(np.concatenate([part.group for part in parts]))) == 50
    if split == "tfds":
        assert not set(parts.test.group) & (set(parts.train.group) | set(parts.validation.group))
        assert set(omniglot(split, seed=2).test.names) == set(parts.test.names)
    assert omniglot(split, seed=1).train.names == parts.train.names != omniglot(split, seed=2).train.names


def test_alphabets_are_clients(cache):
    train = omniglot().train  # characters in random order, so that alphabets are scattered over the rows
    parts = partitions.by_group(np.repeat(train.group, 20))
    rows = np.arange(len(train.names) * 20)
    population = clients(rows[:, None], np.repeat(np.arange(len(train.names)), 20), parts)
    assert len(parts) == 50
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), rows)
    tasks = jax.tree.map(np.asarray, everyone(population))
    for client in range(50):
        real = tasks.support.mask[client] > 0
        characters, drawings = np.unique(tasks.support.y[client, real], return_counts=True)
        alphabet = [name for name, group in zip(train.names, train.group, strict=True) if group == client]
        assert sorted(train.names[i] for i in characters) == sorted(alphabet) and set(drawings) == {20}
        assert len({name.rsplit("_", 1)[0] for name in alphabet}) == 1


def test_ink(cache):
    images = np.concatenate([part.images for part in omniglot()])
    assert abs(images.mean() / 255 - 0.0805) < 0.0005  # that of the 105×105 originals
    assert images.max() == 255
    assert images.min() == 0
    borders = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
    assert borders.mean() / 255 < 0.03  # paper around ink, not the other way round
    per_drawing = images.reshape(-1, 28 * 28).mean(-1) / 255
    assert per_drawing.min() > 0.002
    assert per_drawing.max() < 0.4


def originals():
    try:
        return module._sources(None)
    except InputError as error:
        pytest.skip(str(error))


def test_what_is_cached_is_what_is_read(cache):
    sources, names = originals()
    source = dict(sources)[True]
    train = omniglot("tfds").train
    rows = {name: row for row, name in enumerate(train.names)}
    weights = module._area_weights(105, 28)
    found = 0
    for example in (source[i] for i in range(150)):
        row = rows.get(names[example["label"]])
        if row is not None:  # else it is one of the validation characters
            drawing = module._shrink(module._ink(example["image"]), weights)
            assert (train.images[row] == drawing).all((1, 2)).any()
            assert train.group[row] == example["alphabet"]
            found += 1
    assert found > 100


@pytest.mark.slow
def test_preparing_from_scratch_gives_what_is_cached(cache):
    originals()
    with np.load(cache / "omniglot-28-v1.npz") as file:
        for name, array in module._prepare(28, None).items():
            np.testing.assert_array_equal(array, file[name])


def test_drawings_of_a_character_resemble_each_other(cache):
    images = omniglot().train.images[:200].astype(np.float32)
    first, second = images[:, :10].mean(1).reshape(200, -1), images[:, 10:].mean(1).reshape(200, -1)
    near = np.corrcoef(first, second)[:200, 200:]
    assert np.mean(near.argmax(1) == np.arange(200)) > 0.7  # by chance .005


def test_a_task_within_an_alphabet(cache):
    test = omniglot("tfds").test
    sample = few_shot(test, num_ways=20, num_support=1, num_query=1, within_group=True)
    tasks = jax.jit(lambda sample, key: sample(key))(batched(sample, 8), jax.random.key(0))
    where = {test.images[c, m].tobytes(): c for c in range(659) for m in range(20)}
    x = np.rint(np.asarray(tasks.support.x)[..., 0] * 255).astype(np.uint8)
    for task in x:
        classes = [where[image.tobytes()] for image in task]
        assert len(set(classes)) == 20
        assert len(set(test.group[classes])) == 1


def test_the_second_start_is_fast_and_needs_no_data(cache, nowhere, monkeypatch):
    monkeypatch.setenv("METALEARN_CACHE", str(cache))
    start = time.perf_counter()
    omniglot()
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "not a zip", "other arrays"])
def test_a_damaged_cache_is_rebuilt(cache, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    good = (cache / "omniglot-28-v1.npz").read_bytes()
    path = tmp_path / "omniglot-28-v1.npz"
    if damage == "other arrays":
        np.savez(path, images=np.zeros((2, 20, 28, 28), np.uint8))
    else:
        middle = len(good) // 2
        flipped = good[:middle] + bytes([good[middle] ^ 255]) + good[middle + 1 :]
        path.write_bytes({"cut": good[:middle], "flipped": flipped, "not a zip": b"hello"}[damage])
    with np.load(io.BytesIO(good)) as file:
        arrays = {key: file[key] for key in file.files}
    calls = []
    monkeypatch.setattr(module, "_prepare", lambda *arguments: calls.append(arguments) or arrays)
    first, second = omniglot(), omniglot()
    assert len(calls) == 1
    assert first.test.names == second.test.names
    np.testing.assert_array_equal(second.test.images, omniglot().test.images)
    assert os.listdir(tmp_path) == ["omniglot-28-v1.npz"]


def test_a_cache_that_cannot_be_written_is_no_obstacle(cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "file"))
    with np.load(cache / "omniglot-28-v1.npz") as file:
        arrays = {key: file[key] for key in file.files}
    monkeypatch.setattr(module, "_prepare", lambda *arguments: arrays)
    with pytest.warns(UserWarning, match="could not be written .* set METALEARN_CACHE"):
        assert len(omniglot().train.names) == 1100


def test_data_that_are_not_prepared(nowhere):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(InputError, match=r"not prepared in .*data: prepare it once with .*or set TFDS_DATA_DIR"):
        omniglot()
    with pytest.raises(InputError, match=r"not prepared in .*elsewhere"):
        omniglot(data_dir=nowhere / "elsewhere")
    assert not (nowhere / "cache").exists()


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "PIL"])
def test_a_package_that_is_missing(nowhere, monkeypatch, missing):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *arguments, **options)

    if missing == "PIL":
        pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=rf"needs the package {missing}, which is missing: .*\.\[prepare\]"):
        omniglot()


def test_arguments():
    with pytest.raises(InputError, match="split must be 'paper' or 'tfds', but is 'lake'"):
        omniglot("lake")
    with pytest.raises(InputError, match="size must be"):
        omniglot(size=0)


@pytest.mark.parametrize(("old", "new"), [(105, 28), (105, 105), (105, 32), (6, 4)])
def test_shrinking_averages_over_areas(old, new):
    weights = module._area_weights(old, new)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.sum(0), new / old, rtol=1e-5)  # every old pixel counts the same
    fine = np.repeat(np.eye(old), new, axis=1).reshape(old, new, old).mean(-1).T  # through a grid of old × new
    np.testing.assert_allclose(weights, fine, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_ink_is_read_whatever_the_decoder_makes_of_one_bit(mode):
    image = pytest.importorskip("PIL.Image")
    drawing = np.zeros((105, 105), bool)
    drawing[3:9, 50:] = True
    file = io.BytesIO()
    image.fromarray(np.where(drawing, 0, 255).astype(np.uint8)).convert(mode).save(file, "png")
    np.testing.assert_array_equal(module._ink(file.getvalue()), drawing)

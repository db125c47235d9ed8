import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.data import ClassImages, digits, digits_in_order, split_classes
from metalearn.data.images import select_classes


def numbered(num_classes=30):
    images = np.arange(num_classes, dtype=np.float32).reshape(-1, 1, 1, 1) + np.zeros((1, 2, 3, 3), np.float32)
    return ClassImages(
        images, np.arange(num_classes) % 2 + 1, np.arange(num_classes) // 3, tuple(f"c{i}" for i in range(num_classes))
    )


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_disjoint_complete_and_keep_what_belongs_together(seed):
    parts = split_classes(numbered(), (18, 5, 7), seed)
    rows = [part.images[:, 0, 0, 0].astype(int) for part in parts]
    assert [len(row) for row in rows] == [18, 5, 7]
    assert sorted(np.concatenate(rows)) == list(range(30))
    for part, row in zip(parts, rows, strict=True):
        assert (part.counts == row % 2 + 1).all()
        assert (part.group == row // 3).all()
        assert part.names == tuple(f"c{i}" for i in row)


def test_the_split_depends_on_the_seed_and_on_nothing_else():
    first, second, other = (split_classes(numbered(), (10, 10), seed)[0].names for seed in (0, 0, 1))
    assert first == second != other
    assert first[:4] == ("c2", "c28", "c13", "c10")  # for ever: published results depend on it


def test_sizes_are_checked():
    with pytest.raises(InputError, match=r"at most the 30 classes that there are, but \[20, 11\] adds up to 31"):
        split_classes(numbered(), (20, 11))
    with pytest.raises(InputError, match="sizes must be a whole number of at least 1, but is 0"):
        split_classes(numbered(), (20, 0))


def test_select_classes_without_the_optional_parts():
    images = ClassImages(np.arange(4.0).reshape(4, 1, 1, 1))
    assert select_classes(images, [3, 1]).images.ravel().tolist() == [3, 1]
    assert select_classes(images, [3, 1])[1:] == (None, None, None)


def test_digits():
    from sklearn.datasets import load_digits

    parts = digits(seed=3)
    assert [len(part.images) for part in parts] == [5, 2, 3]
    assert sorted(name for part in parts for name in part.names) == [str(i) for i in range(10)]
    assert sum(part.counts.sum() for part in parts) == 1797
    data = load_digits()
    for part in parts:
        for images, count, name in zip(part.images, part.counts, part.names, strict=True):
            np.testing.assert_array_equal(images[:count] * 16, data.images[data.target == int(name)])
            assert not images[count:].any()
    assert digits(seed=3).train.names == parts.train.names


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch):
    x, y = digits_in_order()
    assert (x.shape, x.dtype, y.dtype) == ((1797, 8, 8), np.float32, np.int32)
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: path.name != "digits.csv.gz" and real(path))
    for read, asked in zip((x, y), digits_in_order(), strict=True):
        np.testing.assert_array_equal(read, asked)


def test_importing_the_package_imports_no_data_library():
    code = "import sys, metalearn.data; print({'tensorflow_datasets', 'sklearn', 'PIL', 'grain'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"

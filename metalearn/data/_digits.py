"""scikit-learn's 1,797 handwritten digits, 8×8: real images that need no network and no files."""

import importlib.util
from pathlib import Path

import numpy as np

from metalearn.core import InputError
from metalearn.data.images import ClassImages, Splits, split_classes


def digits(*, seed: int = 0) -> Splits:
    """Returns `Splits` of the ten digits by class: 5 for training, 2 for validation, 3 for test, chosen by `seed`.

    Each part is a `ClassImages` with images `[C, 183, 8, 8]`, float32 in [0, 1], of which `counts` (174 to 183) are
    real. Enough for tasks of 2 or 3 ways.

    Raises `InputError` if scikit-learn is missing.
    """
    x, y = digits_in_order()
    counts = np.bincount(y)
    images = np.zeros((10, counts.max(), 8, 8), np.float32)
    for digit in range(10):
        images[digit, : counts[digit]] = x[y == digit]
    everything = ClassImages(images, counts.astype(np.int32), None, tuple(map(str, range(10))))
    return Splits(*split_classes(everything, (5, 2, 3), seed))


def digits_in_order() -> tuple[np.ndarray, np.ndarray]:
    """Returns `(x, y)`, all digits as scikit-learn has them: images float32 `[1797, 8, 8]` in [0, 1], labels int32.

    Raises `InputError` if scikit-learn is missing.
    """
    # where the package is, without importing it, which would take longer than all the rest of a start
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise InputError("digits needs scikit-learn, which is missing: `pip install scikit-learn`.")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        table = np.loadtxt(path, np.float32, delimiter=",")
    else:  # a version that keeps it elsewhere
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True)).astype(np.float32)
    return table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int32)

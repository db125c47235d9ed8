"""scikit-learn's 1,797 handwritten digits, 8×8: real images that need no network and no files."""

import numpy as np

from metalearn.core import InputError
from metalearn.data.images import ClassImages, Splits, split_classes


def digits(*, seed: int = 0) -> Splits:
    """Returns `Splits` of the ten digits by class: 5 for training, 2 for validation, 3 for test, chosen by `seed`.

    Each part is a `ClassImages` with images `[C, 183, 8, 8]`, float32 in [0, 1], of which `counts` (174 to 183) are
    real. Enough for tasks of 2 or 3 ways.

    Raises `InputError` if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("digits needs scikit-learn, which is missing: `pip install scikit-learn`.") from error
    data = load_digits()
    counts = np.bincount(data.target)
    images = np.zeros((10, counts.max(), 8, 8), np.float32)
    for digit in range(10):
        images[digit, : counts[digit]] = data.images[data.target == digit] / 16
    everything = ClassImages(images, counts.astype(np.int32), None, tuple(map(str, range(10))))
    return Splits(*split_classes(everything, (5, 2, 3), seed))

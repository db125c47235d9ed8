"""MNIST through TFDS: 60,000 and 10,000 handwritten digits."""

import os

import numpy as np

from metalearn.core import InputError
from metalearn.data._cache import cached

_HOW = (
    "prepare it once with `pip install -e '.[prepare]'` and `tfds build mnist --file_format=array_record`, "
    "or set TFDS_DATA_DIR to the folder that holds a prepared mnist"
)


def mnist(*, data_dir: str | os.PathLike | None = None) -> tuple[tuple, tuple]:
    """Returns `((x, y), (x_test, y_test))`: images uint8 `[60000, 28, 28, 1]` and `[10000, 28, 28, 1]`, labels int32.

    The arrays are kept in METALEARN_CACHE, or ~/.cache/metalearn. Raises `InputError`, saying how to get the data,
    where it is not prepared.
    """
    arrays = cached(
        "mnist-v1",
        lambda: _prepare(data_dir),
        lambda arrays: arrays["x"].shape == (70_000, 28, 28, 1) and len(arrays["y"]) == 70_000,
    )
    x, y = arrays["x"], arrays["y"]
    return (x[:60_000], y[:60_000]), (x[60_000:], y[60_000:])


def _prepare(data_dir) -> dict:
    place = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        import tensorflow_datasets as tfds

        sources = [tfds.builder("mnist", data_dir=place).as_data_source(name) for name in ("train", "test")]
        examples = [example for source in sources for example in source]
    except ImportError as error:
        raise InputError(f"MNIST needs the package {error.name}, which is missing: {_HOW}.") from error
    except Exception as error:  # TFDS raises many kinds, AssertionError among them
        raise InputError(f"MNIST is not prepared in {place or 'the default place of TFDS'}: {_HOW}.") from error
    x = np.stack([np.asarray(example["image"], np.uint8).reshape(28, 28, 1) for example in examples])
    if not 0.1 < x.mean() / 255 < 0.16:
        raise InputError(f"MNIST must have a mean ink of about .13, but it is {x.mean() / 255:.3f}: wrongly decoded.")
    return {"x": x, "y": np.asarray([example["label"] for example in examples], np.int32)}

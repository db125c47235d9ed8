"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

import io
import os

import numpy as np

from metalearn.arguments import whole
from metalearn.core import InputError
from metalearn.data._cache import cached
from metalearn.data.images import ClassImages, Splits, select_classes, split_classes

_NUM_CLASSES, _NUM_IMAGES, _NUM_BACKGROUND = 1623, 20, 964
_HOW = (
    "prepare it once with `pip install -e '.[prepare]'` and `tfds build omniglot --file_format=array_record`, "
    "or set TFDS_DATA_DIR to the folder that holds a prepared omniglot"
)


def omniglot(
    split: str = "paper", *, seed: int = 0, size: int = 28, data_dir: str | os.PathLike | None = None
) -> Splits:
    """Returns `Splits` of Omniglot's characters, each part a `ClassImages` `[C, 20, size, size]`, uint8, ink = 255.

    `split="paper"`: all 1,623 characters permuted by `seed`, 1,100 for training, 100 for validation, 423 for test:
    the 1,200/423 of Santoro et al. (2016, arXiv 1605.06065) and of MAML, 100 of the 1,200 held out to choose the
    checkpoint. `split="tfds"`: Lake's background set, 964 characters, of which 100 by `seed` are for validation, and
    his evaluation set, 659, for test; no alphabet of the test set is among the others. `group` is the alphabet and
    `names` the characters. No rotations: that is an option of `few_shot`.

    The 105×105 drawings are shrunk by averaging over areas, which keeps the mean ink (.08) and leaves greys; the
    code of the MAML paper picks single pixels of a 1-bit image instead. The prepared array is kept in
    METALEARN_CACHE, or ~/.cache/metalearn, and the original is not needed again. The original is read through
    TFDS from `data_dir`, TFDS_DATA_DIR or TFDS's default place. Nothing is downloaded.

    Raises `InputError` if `split` is unknown, or if the data (or what reads it) is not there, saying how to get it.
    """
    if split not in ("paper", "tfds"):
        raise InputError(f"split must be 'paper' or 'tfds', but is {split!r}.")
    size = whole("size", size)
    shape = (_NUM_CLASSES, _NUM_IMAGES, size, size)

    arrays = cached(
        f"omniglot-{size}-v1",
        lambda: _prepare(size, data_dir),
        lambda arrays: (
            arrays["images"].shape == shape
            and arrays["images"].dtype == np.uint8
            and all(len(arrays[name]) == _NUM_CLASSES for name in ("group", "names", "background"))
        ),
    )
    images = ClassImages(arrays["images"], None, arrays["group"], tuple(arrays["names"].tolist()))
    if split == "paper":
        return Splits(*split_classes(images, (1100, 100, 423), seed))
    background = arrays["background"]
    train, validation = split_classes(
        select_classes(images, np.flatnonzero(background)), (_NUM_BACKGROUND - 100, 100), seed
    )
    return Splits(train, validation, select_classes(images, np.flatnonzero(~background)))


def _prepare(size: int, data_dir) -> dict:
    """Reads everything through TFDS; classes are in the order of (alphabet, label)."""
    sources, label_names = _sources(data_dir)
    examples = [(is_background, example) for is_background, source in sources for example in source]
    background = np.asarray([is_background for is_background, _ in examples])
    alphabet, label = (np.asarray([example[name] for _, example in examples]) for name in ("alphabet", "label"))

    order = np.lexsort((label, alphabet))  # stable, so the drawings of a character keep TFDS's order
    classes, counts = np.unique(label, return_counts=True)
    if len(classes) != _NUM_CLASSES or (counts != _NUM_IMAGES).any():
        raise InputError(
            f"omniglot must have {_NUM_CLASSES} characters with {_NUM_IMAGES} drawings each, but the "
            f"prepared data has {len(classes)} with {counts.min()} to {counts.max()}."
        )
    weights = _area_weights(105, size)
    images = np.stack([_shrink(_ink(examples[i][1]["image"]), weights) for i in order])
    ink = images.mean() / 255
    if not 0.05 < ink < 0.2:
        raise InputError(
            f"omniglot must have a mean ink between .05 and .2, but it is {ink:.3f}: "
            "the images were not decoded as they should be."
        )
    first = order[::_NUM_IMAGES]
    return {
        "images": images.reshape(_NUM_CLASSES, _NUM_IMAGES, size, size),
        "group": alphabet[first].astype(np.int32),
        "names": np.asarray([label_names[i] for i in label[first]]),
        "background": background[first],
    }


def _sources(data_dir):
    try:
        import tensorflow_datasets as tfds
        from PIL import Image  # noqa: F401
    except ImportError as error:
        raise InputError(f"Omniglot needs the package {error.name}, which is missing: {_HOW}.") from error
    place = data_dir or os.environ.get("TFDS_DATA_DIR")  # read now: TFDS reads it once, when it is first imported
    try:
        builder = tfds.builder("omniglot", data_dir=place)
        # Decoded here: the PNGs are 1-bit, which decoders return as {0, 1} or as {0, 255}.
        decoders = {"image": tfds.decode.SkipDecoding()}
        sources = [(name == "train", builder.as_data_source(name, decoders=decoders)) for name in ("train", "test")]
    except ImportError as error:
        raise InputError(f"Omniglot needs the package {error.name}, which is missing: {_HOW}.") from error
    except Exception as error:  # TFDS raises many kinds, AssertionError among them
        raise InputError(f"Omniglot is not prepared in {place or tfds.core.constants.DATA_DIR}: {_HOW}.") from error
    return sources, builder.info.features["label"].names


def _ink(png: bytes) -> np.ndarray:
    """Returns `[105, 105]` float32, 1 where there is ink and 0 where there is paper."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(png)))
    pixels = pixels.reshape(*pixels.shape[:2], -1).mean(-1, dtype=np.float32)
    return (pixels == 0).astype(np.float32)


def _shrink(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns uint8 `[new, new]`, each pixel the average over the area that it covers."""
    return np.rint(255 * (weights @ image @ weights.T)).astype(np.uint8)


def _area_weights(old: int, new: int) -> np.ndarray:
    """Returns `[new, old]`: which part of each new pixel each old one covers; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * (new / old)).astype(np.float32)

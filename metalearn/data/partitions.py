"""How a data set is divided among clients: lists of index arrays, one a client, no example in two of them.

All run on the host, depend on nothing but their arguments, and end whatever these are: with `InputError` where a number
cannot be used, labels or groups are no finite vector `[n]`, or there are fewer examples than clients need.
"""

import heapq
from collections.abc import Sequence

import numpy as np

from metalearn.arguments import number, whole
from metalearn.core import InputError


def iid(count: int, num_clients: int, *, seed: int = 0) -> list[np.ndarray]:
    """`count` examples dealt at random, as evenly as they go.

    >>> [len(part) for part in iid(10, 3)]
    [4, 3, 3]
    """
    _enough(whole("count", count), num_clients)
    return np.array_split(np.random.default_rng(seed).permutation(count), num_clients)


def shards(labels: np.ndarray, num_clients: int, per_client: int = 2, *, seed: int = 0) -> list[np.ndarray]:
    """Sorted by label, cut into `num_clients * per_client` shards, of which each client gets `per_client`: most then
    have examples of that many labels (McMahan et al. 2017, arXiv 1602.05629)."""
    labels, per_client = _vector("labels", labels), whole("per_client", per_client)
    _enough(len(labels), num_clients, per_client)
    cut = np.array_split(np.argsort(labels, kind="stable"), num_clients * per_client)
    dealt = np.random.default_rng(seed).permutation(len(cut)).reshape(num_clients, per_client)
    return [np.concatenate([cut[i] for i in mine]) for mine in dealt]


def dirichlet(
    labels: np.ndarray, num_clients: int, concentration: float, *, min_size: int = 1, seed: int = 0
) -> list[np.ndarray]:
    """Each label's examples divided in proportions drawn from a symmetric Dirichlet distribution: small
    concentrations give clients of few labels, and of very different sizes (Hsu, Qi, Brown 2019, arXiv 1909.06335, draw
    a client's labels; here, as is now common, a label's clients).

    A client with fewer than `min_size` examples receives at random from the largest, one by one, so a tiny
    concentration with many clients ends, where drawing again until it fits would not.
    """
    _positive_finite(concentration)
    labels = _vector("labels", labels)
    _enough(len(labels), num_clients, whole("min_size", min_size))
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(num_clients)]
    for label in np.unique(labels):
        examples = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(examples, _cuts(rng, len(examples), num_clients, concentration))):
            part.extend(piece.tolist())
    return _filled(rng, parts, min_size)


def quantity(
    count: int, num_clients: int, concentration: float, *, min_size: int = 1, seed: int = 0
) -> list[np.ndarray]:
    """Examples alike, numbers unlike: sizes are proportions drawn from a symmetric Dirichlet distribution."""
    _positive_finite(concentration)
    _enough(whole("count", count), num_clients, whole("min_size", min_size))
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    parts = [piece.tolist() for piece in np.split(order, _cuts(rng, count, num_clients, concentration))]
    return _filled(rng, parts, min_size)


def by_group(groups: np.ndarray) -> list[np.ndarray]:
    """One client for each distinct value, in sorted order: speaking roles, alphabets, devices.

    >>> by_group(np.array([7, 3, 7]))
    [array([1]), array([0, 2])]
    """
    groups = _vector("groups", groups)
    _enough(len(groups), 1)
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(index[order])) + 1)


def split_each(
    parts: Sequence[np.ndarray], fraction: float, *, ordered: bool = False, seed: int = 0
) -> tuple[list, list]:
    """Each client's examples in two: what it learns from, and a `fraction` that it is tested on.

    The test examples are random ones, or with `ordered` the last, for examples that came one after another (text,
    measurements); both halves keep the order of the part. A client with a single example keeps it to learn from; every
    other has at least one on either side.

    >>> split_each([np.array([3, 4, 7, 9])], 0.25, ordered=True)
    ([array([3, 4, 7])], [array([9])])
    """
    number("fraction", fraction, above=0, below=1)
    rng = np.random.default_rng(seed)

    def split(part):
        test = min(max(round(fraction * len(part)), 1), len(part) - 1)
        part, for_test = np.asarray(part), np.zeros(len(part), bool)
        for_test[slice(len(part) - test, None) if ordered else rng.permutation(len(part))[:test]] = True
        return part[~for_test], part[for_test]

    learn, tests = zip(*map(split, parts)) if len(parts) else ((), ())
    return list(learn), list(tests)


def split_clients(num_clients: int, sizes: Sequence[int], *, seed: int = 0) -> list[np.ndarray]:
    """Clients' numbers at random in groups of the given sizes: training, validation and test clients."""
    sizes = [whole("every size", size) for size in sizes]
    if not sizes or sum(sizes) > whole("num_clients", num_clients):
        raise InputError(f"sizes {tuple(sizes)} must be positive and sum to at most the {num_clients} clients.")
    return np.split(np.random.default_rng(seed).permutation(num_clients)[: sum(sizes)], np.cumsum(sizes)[:-1])


def _enough(count: int, num_clients: int, each: int = 1) -> None:
    least = whole("num_clients", num_clients) * each
    if least > count:
        raise InputError(f"{count} examples are too few: {least} are needed for every client to have its own.")


def _vector(name: str, values) -> np.ndarray:
    if np.ndim(values) != 1:
        raise InputError(f"{name} must be one for each example, [n], but have the shape {list(np.shape(values))}.")
    values = np.asarray(values)
    if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
        raise InputError(f"{name} must be finite: a value that is none belongs to no client.")
    return values


def _positive_finite(concentration: float) -> None:
    number("concentration", concentration, above=0, below=np.inf)


def _cuts(rng, count: int, num_clients: int, concentration: float) -> np.ndarray:
    # through logarithms: gammas of a tiny shape underflow to zeros, whose proportions are not numbers
    logs = np.log(rng.gamma(concentration + 1, size=num_clients)) + np.log(rng.random(num_clients)) / concentration
    shares = np.exp(logs - logs.max())
    return np.rint(np.cumsum(shares / shares.sum())[:-1] * count).astype(int)


def _filled(rng, parts: list[list[int]], min_size: int) -> list[np.ndarray]:
    # where one has too few, the largest has more than enough, so nobody who received ever gives
    largest = [(-len(part), k) for k, part in enumerate(parts) if len(part) > min_size]
    heapq.heapify(largest)
    for part in sorted(parts, key=len):
        while len(part) < min_size:
            giver = parts[largest[0][1]]
            part.append(giver.pop(int(rng.integers(len(giver)))))
            heapq.heapreplace(largest, (-len(giver), largest[0][1]))
    return [np.sort(np.asarray(part, int)) for part in parts]

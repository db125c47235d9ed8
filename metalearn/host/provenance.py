"""What a run was asked for and where it ran: `config.json` and `environment.json` in its folder."""

import dataclasses
import enum
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np

from metalearn.core import InputError
from metalearn.files import write_whole
from metalearn.host import keys

PACKAGES = ("metalearn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def plain(value: Any) -> Any:
    """A config as JSON has it: dataclasses and tuples become dicts and lists, functions their names, absolute paths
    their last part, so that a folder can be moved to another machine."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str | PurePath):
        return PurePath(value).name if os.path.isabs(value) else str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if callable(value):
        return f"{getattr(value, '__module__', '?')}:{getattr(value, '__qualname__', type(value).__qualname__)}"
    raise InputError(
        f"config: a {type(value).__qualname__} cannot be written as JSON; expected numbers, text and lists."
    )


def environment(config: Any, key: jax.Array) -> dict[str, Any]:
    """Versions, device, git commit, seed and command line. No absolute path of the machine is in it."""
    device = next(iter(key.devices()))
    git: dict[str, Any] = {"commit": _git("rev-parse", "HEAD"), "dirty": None}
    if git["commit"] is not None:
        git["dirty"] = _git("status", "--porcelain", "--untracked-files=no") != ""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "platform": platform.system(),
        "processor": _processor(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpus": os.cpu_count(),
        "git": git,
        "seeds": config.get("seeds", config.get("seed")) if isinstance(config, Mapping) else None,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "command": [_portable(word) for word in sys.argv],
    }


def make_folder(folder: str | Path) -> None:
    """Creates the folder, or raises InputError where nothing can be written."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder: {folder} cannot be written to ({error.strerror}); choose another.") from error


def fingerprint(sample: Any) -> list[str]:
    """Shape, type and checksum of each array that a sampler holds as a pytree, whose data a run must go on with."""
    arrays = [leaf for leaf in jax.tree.leaves(sample) if isinstance(leaf, np.ndarray | jax.Array)]
    found = []
    for array in arrays:
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            continue
        plain = np.ascontiguousarray(keys.numbers(array))
        found.append(f"{plain.dtype}{list(plain.shape)} {zlib.crc32(plain.reshape(-1).view(np.uint8).data):08x}")
    return found


def begin(folder: str | Path, config: Any, key: jax.Array, sample: Any = None) -> None:
    """Writes both files of a new run."""
    config = plain({} if config is None else config)
    _write(Path(folder) / "config.json", config)
    _write(Path(folder) / "environment.json", environment(config, key) | {"data": fingerprint(sample)})


def check(folder: str | Path, config: Any, key: jax.Array, sample: Any = None, *, free: Sequence[str] = ()) -> None:
    """Raises InputError where the folder's run had another config, key or data; fields in `free` may differ."""
    there, here = _read(Path(folder) / "config.json"), plain({} if config is None else config)
    ran = _read(Path(folder) / "environment.json") or {}
    if there is None:  # another run may have saved there after the folder was emptied
        raise InputError(f"folder: {folder} has checkpoints but no config.json to tell whose; choose another folder.")
    old, new = (_flat({name: item for name, item in side.items() if name not in free}) for side in (there, here))
    missing = "(none)"
    different = [
        f"{name} was {old.get(name, missing)!r} and is {new.get(name, missing)!r}"
        for name in sorted(set(old) | set(new))
        if repr(old.get(name, missing)) != repr(new.get(name, missing))
    ]
    now = np.asarray(jax.random.key_data(key)).tolist()
    if not different and ran.get("key", now) != now:
        different = [f"key was {ran['key']} and is {now}"]
    if different:
        raise InputError(f"config: {folder} holds a run of another configuration: {'; '.join(different)}.")
    data = fingerprint(sample)
    if ran.get("data", data) != data:
        raise InputError(f"sample: {folder} holds a run on other data; choose another folder.")


def again(folder: str | Path, config: Any, key: jax.Array, step: int) -> None:
    """Writes down that a run goes on from `step`, and what about the environment has changed since it began."""
    folder, config = Path(folder), plain({} if config is None else config)
    now, first = environment(config, key), _read(folder / "environment.json") or {}
    changed = {name: value for name, value in now.items() if first.get(name) != value}
    first["resumed"] = [*first.get("resumed", []), {"step": step, **changed}]
    _write(folder / "config.json", config)
    _write(folder / "environment.json", first)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def _read(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"folder: {path} is not JSON; restore it or choose another folder.") from error


def _write(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")


def _processor() -> str | None:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        return platform.processor() or None
    return names[0].partition(":")[2].strip() if names else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _portable(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{plain(option)}{equals}{plain(value)}"

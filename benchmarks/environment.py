"""What a report says of the place where it was measured."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

BUSY = 0.5  # processes that want to run, from which on times are not to be trusted


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_cores_devices() -> None:
    """A CPU's cores become its devices, unless somebody has said how many there are."""
    said = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 1 and not said:
        jax.config.update("jax_num_cpu_devices", cores())


def wait_until_idle(most: float = 180.0) -> None:
    """Waits until the load of what ran before has fallen, or `most` seconds."""
    end = time.monotonic() + most
    while hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY and time.monotonic() < end:
        time.sleep(5)


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, JAX's device, how busy the machine was before, and what XLA
    was told."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores(),
        "device": jax.devices()[0].device_kind,
        "system": platform.system(),
        "load_before": load,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def commit() -> dict[str, str]:
    """The commit of this source, and whether something has been changed since; nothing outside of a repository."""
    ask = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"commit": said.stdout.strip()} if said.returncode == 0 else {}


def versions() -> dict[str, str]:
    """Ours; a peer's are in its entry."""
    packages = ("metalearn", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}

"""What a report says of the place where it was measured."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, JAX's device, and how busy the machine was before."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "system": platform.system(),
        "load_before": load,
    }


def versions() -> dict[str, str]:
    """Ours; a peer's are in its entry."""
    packages = ("metalearn", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}

"""Command lines over frozen dataclasses, and errors in one sentence. Imports no JAX, so `--help` answers at once."""

import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

# what XLA is told of a CPU: where most of the time is compilation, and where Conv-4's steps are as fast as with all
# optimisation (others' are not) and compile in two fifths of the time
UNOPTIMISED = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
CONV4 = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"


def launch(
    presets: Mapping[str, tuple[str, Any]], work: Callable[[Any], None], description: str, *, flags: str = ""
) -> None:
    """Parses `PRESET --field value …` into settings and hands them to `work`.

    `flags` are XLA's on a CPU; with `XLA_FLAGS` of the user's own, or where JAX can use an accelerator, they are left.
    Bad input ends in one sentence on standard error and exit code 2, without a traceback.
    """
    with_huge_pages()
    # imports and tracing make millions of objects that stay: looking through them as often as by default is a tenth
    # of a start
    gc.set_threshold(50_000, 20, 100)
    import tyro

    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in presets:
        fail(f"there is no preset {arguments[0]!r}; {nearest(arguments[0], presets)}")
    work_settings = tyro.extras.overridable_config_cli(dict(presets), description=description)
    if flags and not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):
        os.environ.setdefault("XLA_FLAGS", flags)
    _prepare_jax(getattr(work_settings, "devices", 1))
    from metalearn.core import InputError

    try:
        work(work_settings)
    except InputError as error:
        fail(str(error))
    except FloatingPointError as error:  # a loss that is not finite: the run has said where and what was kept
        fail(str(error), 3)


def with_huge_pages() -> None:
    """Starts this program anew, with the C library told to ask for large pages of memory; once, and under Linux.

    XLA's CPU backend asks for a step's temporaries anew in every step, and the system clears them page by page: of a
    step with hundreds of MiB that is a third of the time with pages of 4 KiB, and little with those of 2 MiB. glibc
    reads this when a program starts and at no other time. A GLIBC_TUNABLES of the user's own is left alone.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    ours = main is not None and main.name.split(".")[0] in ("experiments", "benchmarks")
    if not ours or sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or "--help" in sys.argv:
        return
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _prepare_jax(devices: int) -> None:
    """Keeps compiled programs in the user's cache or $JAX_COMPILATION_CACHE_DIR, so that a second start compiles
    nothing, and makes a CPU as many devices as are asked for."""
    import jax

    if not jax.config.jax_compilation_cache_dir:
        from metalearn.data._cache import cache_folder

        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


def nearest(name: str, known) -> str:
    """`did you mean 'a' or 'b'?`, or all there is where nothing is near: the end of a sentence."""
    import difflib

    close = difflib.get_close_matches(name, list(known), 3, 0.4)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(sorted(known))}."


def imported(name: str, known) -> Callable:
    """What `some.module:function` names; `InputError`, with the nearest `known` names, where it cannot be had."""
    from metalearn.core import InputError

    module, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"there is no method {name!r}; {nearest(name, known)}")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"method {name!r} cannot be imported: {error}.") from error


def fail(sentence: str, code: int = 2) -> None:
    """Prints one sentence on standard error and exits."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(code)

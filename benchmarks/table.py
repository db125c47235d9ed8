"""A report as text."""

from typing import Any

from benchmarks.environment import BUSY


def table(report: dict[str, Any]) -> str:
    """All of it: where it was measured, and the rows."""
    place = report["machine"]
    lines = [f"{place['cpu']}, {place['cores']} cores, {report['date']}, jax {report['versions']['jax']}"]
    if report["quick"]:
        lines.append("--quick: small sizes, a trial and not a measurement")
    elif place["load_before"] is not None and place["load_before"] > BUSY:
        lines.append(f"the machine was busy (load {place['load_before']:.1f}): these times are not to be trusted")
    if place.get("xla_flags"):
        lines.append(f"XLA_FLAGS is {place['xla_flags']!r}, which changes what is measured")
    if place["device"].lower() == "cpu":
        lines.append("no accelerator: what `auto` chooses on a GPU or TPU is a guess, not measured here")
    return "\n".join([*lines, *(row_lines(name, row) for name, row in report["rows"].items())])


def row_lines(name: str, row: dict[str, Any]) -> str:
    """One row, with an empty line before it."""
    setting = ", ".join(f"{key} {value}" for key, value in row["setting"].items() if value != "")
    head = f"  {'':<34} {'ms a step':>10} {'(quartiles)':>17} {'ratio':>7} {'first, s':>9} {'error':>8} {'MiB':>8}"
    floor = [_floor(row["floor"])] if row.get("floor") else []
    return "\n".join(["", f"{name}  ({setting})", head, *floor, *(_line(entry) for entry in row["entries"])])


def _floor(floor: dict[str, Any]) -> str:
    done = f"{floor['flops'] / 1e9:.3g} GFLOP at {floor['peak_flops_per_s'] / 1e9:.3g} GFLOP/s"
    copied = f"{floor['bytes'] / 1e6:.3g} MB at {floor['copied_bytes_per_s'] / 1e9:.3g} GB/s"
    return f"  {'the floor':<34} {_ms(floor['seconds']):>10}   {done}; {copied}"


def _line(entry: dict[str, Any]) -> str:
    tried = [_tried(one, entry.get("variant")) for one in entry.get("tried", [])]
    if entry["status"] != "ok":
        return "\n".join([f"  {entry['who']:<34} {entry['status']}", *tried])
    low, high = (f"{1e3 * value:.3g}" for value in entry["seconds"]["quartiles"])
    ratio = f"{entry['ratio']['median']:.3g}" if "ratio" in entry else ""
    error = f"{entry['direction_error']:.0e}" if "direction_error" in entry else ""
    memory = f"{entry['memory_bytes'] / 2**20:.4g}" if "memory_bytes" in entry else ""
    columns = (
        f"{_ms(entry['seconds']['median']):>10} {f'({low}–{high})':>17} {ratio:>7} {entry['first_s']:>9.2f} "
        f"{error:>8} {memory:>8}"
    )
    beside = [f"      {entry['times_floor']:.3g} times the floor"] if "times_floor" in entry else []
    if "temporary_bytes" in entry:
        temporaries, compiled = entry["temporary_bytes"] / 2**20, entry["compile_s"]
        beside.append(f"      {temporaries:.4g} MiB of it temporaries; compiled in {compiled:.2f} s")
    return "\n".join([f"  {entry['who']:<34} {columns}".rstrip(), *beside, *tried])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"


def _tried(one: dict[str, Any], kept: str | None) -> str:
    result = f"{1e3 * one['tuning_s']:.3g} ms" if one["status"] == "ok" else one["status"]
    return f"      {'kept' if one['variant'] == kept else 'tried'}: {one['variant']}, {result}"

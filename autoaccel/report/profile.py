"""A machine's profile and a step's as tables of texts.

Plain values in, plain text out. Must not know a terminal library, nor measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoaccel.hardware.profile import UNITS
from autoaccel.report.bottleneck import Document, on_cpu_of
from autoaccel.report.progress import duration, quantity

NAMES = {
    "data": "data wait",
    "copy": "copy to device",
    "prepare": "augmentation",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "after": "averages",
}
"""What the pieces of a step are called."""
RATES = {
    "host_to_device": "host to device",
    "memory": "memory copy",
    "dispatch": "dispatch, one operation",
    "loader": "loader, one process",
    "disk": "disk read here",
}
"""What rates are called, by the first word of their names, where that is not plain."""
BUSY = 0.1
"""Share of the CPUs that others may keep busy before rates are called disturbed."""
_ALWAYS = ("data", "copy", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Section:
    """A table: its title, what stands above its columns (nothing if empty), and rows of equally many texts."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: tuple[int, ...] = ()
    """Columns that are set to the right."""


def sections(document: Document) -> list[Section]:
    """The tables of a profile (see `inspection.profile`), in the order in which they are read."""
    found = [_machine(document["hardware"]), _rates(document["hardware"])]
    breakdown = document.get("breakdown")
    if breakdown is None:
        return found
    if not breakdown["oom"]:
        found += [_pieces(document), _bounds(document), _flops(document)]
    return [*found, _micro_batches(document["steps"], document["task"]["resident"])]


def _machine(hardware: Document) -> Section:
    isa = f" ({', '.join(hardware['isa'])})" if hardware["isa"] else ""
    affinity = f"affinity {hardware['affinity']}; " if hardware["affinity"] else ""
    cores, limit = hardware["cgroup_cores"], hardware["cgroup_memory_bytes"]
    rows = [
        ("processor", f"{hardware['cpu_model']}{isa}"),
        ("CPUs", f"{hardware['usable_cores']} of {hardware['n_cpus']} usable ({affinity}{_limit(cores)})"),
        ("memory", f"{_gib(hardware['memory_bytes'])} ({_limit(None if limit is None else _gib(limit))})"),
    ]
    for at, device in enumerate(hardware["devices"]):
        capability = f", compute capability {device['capability']}" if device["capability"] else ""
        number = f" {at}" if len(hardware["devices"]) > 1 else ""
        text = f"{device['kind']}{number} {device['name']}, {_gib(device['memory_bytes'])}{capability}"
        rows.append(("device" if at == 0 else "", text))
    threads = hardware["n_threads"]
    rows.append(("trials run on", f"{hardware['device']}, with {threads} CPU thread{'s' if threads > 1 else ''} each"))
    return Section("this machine", (), [*rows, ("meanwhile", _load(hardware["load"]))])


def _limit(value: float | str | None) -> str:
    return "no cgroup limit" if value is None else f"cgroup limit {value}"


def _load(load: Document) -> str:
    others, average = load["others"], load["average"]
    texts = [] if others is None else [f"others kept {others:.0%} of the usable CPUs busy"]
    texts += [] if average is None else [f"load average {average:.1f}"]
    if others is not None and others > BUSY:
        texts.append("rates on the wall are lower for it")
    return "; ".join(texts) or "not known here"


def _rates(hardware: Document) -> Section:
    on_cpu = hardware["device"] == "cpu"
    rows = []
    for name in [*hardware["rates"], *hardware["skipped"]]:
        rate, (kind, *rest) = hardware["rates"].get(name), name.split(".")
        note = hardware["notes"].get(name, "") if rate else f"not measured: {hardware['skipped'][name]}"
        cells = ["-", "-"] if rate is None else [_rate(name, rate[key]) for key in ("per_s", "per_cpu_s")]
        rows.append((" ".join([RATES.get(kind, kind), *rest]), *(cells if on_cpu else cells[:1]), note))
    header = ("best rate", "on the wall", *(("per CPU second",) if on_cpu else ()), "")
    return Section("what it can do", header, rows, (1, 2) if on_cpu else (1,))


def _rate(name: str, per_s: float | None) -> str:
    if per_s is None:
        return ""
    unit = UNITS[name.partition(".")[0]]
    if unit == "operations":
        return f"{duration(1 / per_s)} each"
    return quantity(per_s, "B/s" if unit == "bytes" else f"{unit}/s")


def _pieces(document: Document) -> Section:
    found, task = document["breakdown"], document["task"]
    pieces, step, on_cpu = found["pieces"], found["step"], on_cpu_of(document)
    total = {key: sum(piece[key] for piece in pieces.values()) for key in ("wall_s", "cpu_s")}

    def row(title: str, took: Document, share: str, note: str) -> tuple[str, ...]:
        return (title, duration(took["wall_s"]), *([duration(took["cpu_s"])] if on_cpu else []), share, note)

    rows = []
    for name, title in NAMES.items():
        if name in pieces and (name in _ALWAYS or pieces[name]["wall_s"] > 0.02 * total["wall_s"]):
            rows.append(row(title, pieces[name], f"{pieces[name]['wall_s'] / total['wall_s']:.1%}", ""))
        elif name == "copy":
            why = "the device is the CPU" if on_cpu else "samples are on the device"
            rows.append((title, *(["-"] * (3 if on_cpu else 2)), why))
    clock = "cpu_s" if on_cpu else "wall_s"
    apart = total[clock] / step[clock] - 1
    samples_per_s = f"{found['samples'] / step['wall_s']:,.0f} samples/s"
    rows.append(row("all pieces", total, "100.0%", f"timed apart: {apart:+.1%} against the whole step"))
    rows.append(row("whole step", step, "", samples_per_s))
    note = f"one pass over {task['n_validation']:,} samples"
    rows.append(("evaluation", duration(found["evaluation_s"]), *([""] * (2 if on_cpu else 1)), note))
    title = (
        f"where a step of {task['task']} goes ({found['samples']} samples, {task['baseline']['precision']['dtype']})"
    )
    header = ("median", *(("CPU time",) if on_cpu else ()), "share", "")
    return Section(title, ("", *header), rows, (1, 2, 3) if on_cpu else (1, 2))


def _bounds(document: Document) -> Section:
    found, roof, rates = document["breakdown"], document["roofline"], document["hardware"]["rates"]
    seconds = found["step"]["cpu_s" if on_cpu_of(document) else "wall_s"]
    flops, key = found["step_flops"], "per_cpu_s" if on_cpu_of(document) else "per_s"
    peak, bandwidth = roof["peak_flops_per_s"], (rates.get("memory") or {}).get(key)
    dispatch = (rates.get("dispatch") or {}).get(key)
    how = {
        "compute": f"{quantity(flops, 'FLOP')} at {_or_unknown(peak, 'FLOP/s')} ({found['arithmetic']} matmul)",
        "memory": f"{quantity(found['n_bytes'], 'B')} at {_or_unknown(bandwidth, 'B/s')} (were there no caches)",
        "launch": f"{found['n_operations']} operations at {duration(1 / dispatch) if dispatch else '-'}",
        "loader": "waiting for samples and copying them",
    }
    how |= {} if flops else {"compute": "FLOPs not counted"}
    rows = []
    for name, text in how.items():
        share = roof["shares"].get(name)
        of_s = sum(piece["wall_s"] for piece in found["pieces"].values()) if name == "loader" else seconds
        cells = ("-", "-") if share is None else (duration(share * of_s), f"{share:.1%}")
        rows.append((name, *cells, text))
    title = f"what bounds it: {roof['bound'] or 'not known'}"
    return Section(title, ("", "at least", "of the step", ""), rows, (1, 2))


def _flops(document: Document) -> Section:
    """FLOPs of a sample, what becomes of them per second, and the place under the roofline."""
    found, roof = document["breakdown"], document["roofline"]
    if not found["step_flops"]:
        return Section("FLOPs", (), [("per sample", "not counted: no operation of the model has a formula")])
    mfu = "" if roof["mfu"] is None else f"MFU {roof['mfu']:.1%} of {quantity(roof['peak_flops_per_s'], 'FLOP/s')}"
    ridge = "" if roof["ridge"] is None else f"; from {roof['ridge']:.3g} on, the peak is the limit"
    rows = [
        ("per sample", quantity(found["step_flops"] / found["samples"], "FLOP"), "forward and backward"),
        ("achieved", quantity(roof["achieved_flops_per_s"], "FLOP/s"), mfu),
        ("attainable", _or_unknown(roof["attainable_flops_per_s"], "FLOP/s"), "min(peak, intensity x bandwidth)"),
        ("intensity", f"{roof['intensity']:.3g} FLOP/B", f"FLOPs per byte moved{ridge}"),
    ]
    return Section("FLOPs", (), rows, (1,))


def _or_unknown(value: float | None, unit: str) -> str:
    return "-" if value is None else quantity(value, unit)


def _micro_batches(steps: Document, is_resident: bool) -> Section:
    rows = []
    for row in steps["micro"]:
        time = row.get("seconds")
        shown = ("out of memory", "-") if time is None else (duration(time), f"{row['micro'] / time:,.0f}")
        rows.append((row["dtype"], f"{row['micro']:,}", *shown))
    rows += [(f"{name} update", "", duration(seconds), "") for name, seconds in steps["optimizer"].items()]
    title = "forward and backward by size" + ("" if is_resident else ", samples read for it")
    return Section(title, ("precision", "samples", "median", "samples/s"), rows, (1, 2, 3))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"

"""A machine's profile and a step's in words: tables of texts, and what bounds the step and could help.

Plain values in, plain text out. Must not know a terminal library, nor measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoaccel.hardware.profile import UNITS

Document = Mapping[str, Any]
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
_FASTER = 1.1
"""How many times faster something has to be to be worth a word."""
_LITTLE = 0.25
"""Below this share of the step no ceiling explains much of it."""


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


def quantity(value: float, unit: str) -> str:
    """Three digits and a prefix: 80.6 GFLOP/s."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    exponent = 0
    while value >= 999.5 and exponent < len(prefixes) - 1:
        value, exponent = value / 1000, exponent + 1
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefixes[exponent]}{unit}"


def duration(value_s: float) -> str:
    """Three digits: 8.55 ms."""
    for factor, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if value_s * factor < 999.5:
            return quantity(value_s * factor, unit)
    return quantity(value_s, "s")


def verdict(document: Document) -> str:
    """What bounds the step, and what one could do about it."""
    if document["breakdown"]["oom"]:
        return "A step of the baseline ran out of memory: give it a smaller batch.size or more batch.accumulation."
    roof = document["roofline"]
    bound = roof["bound"]
    if bound is None:
        return "What bounds the step is not known: no ceiling was measured."
    share = roof["shares"][bound]
    whole = _whole(document) if bound != "loader" else duration(document["breakdown"]["step"]["wall_s"])
    explained = {
        "compute": f"its FLOPs alone would take {share:.0%} of its {whole} at the ceiling of matrix products",
        "memory": f"the bytes that its operations move would take {_share(share)} of its {whole} (an estimate: "
        "caches keep some)",
        "launch": f"launching its {document['breakdown']['n_operations']} operations takes at least {share:.0%} of its "
        f"{whole}",
        "loader": f"it waits {share:.0%} of its {whole} for samples",
    }[bound]
    rest = ""
    if bound != "loader" and share < _LITTLE:
        rest = ", and no ceiling explains most of it: its operations are small or slow"
    names = {"compute": "Compute", "memory": "Memory bandwidth", "launch": "Launching", "loader": "The loader"}
    could = _could_help(document)
    return f"{names[bound]} bounds the step: {explained}{rest}. What could help: {'; '.join(could)}."


def _whole(document: Document) -> str:
    """What a step takes, in the seconds that are compared with ceilings."""
    step = document["breakdown"]["step"]
    return f"{duration(step['cpu_s'])} of CPU time" if _on_cpu(document) else duration(step["wall_s"])


def _on_cpu(document: Document) -> bool:
    return bool(document["hardware"]["device"] == "cpu")


def _could_help(document: Document) -> list[str]:
    """What could make the step faster, by what bounds it and what was measured."""
    return {"compute": _less_compute, "memory": _less_traffic, "launch": _fewer_launches, "loader": _faster_loader}[
        document["roofline"]["bound"]
    ](document)


def _less_compute(document: Document) -> list[str]:
    found = [*_shorter_numbers(document), *_other_format(document), *_other_size(document)]
    if (document["roofline"]["mfu"] or 1.0) < 0.5:
        found.append("compiling (compile.mode), which fuses what is not a matrix product")
    return [*found, "fewer FLOPs: smaller samples early (curriculum.*), a smaller model"]


def _less_traffic(document: Document) -> list[str]:
    found = ["compiling (compile.mode), which fuses operations", *_shorter_numbers(document), *_other_format(document)]
    return [*found, "a fused optimizer (optim.kernel)"]


def _fewer_launches(document: Document) -> list[str]:
    found = _other_size(document) or ["larger batches (batch.size)"]
    if document["hardware"]["device"] == "cuda":
        return [*found, "CUDA graphs (compile.mode reduce-overhead)", "a fused optimizer (optim.kernel)"]
    return [*found, "compiling (compile.mode)", "a fused optimizer (optim.kernel)"]


def _faster_loader(document: Document) -> list[str]:
    if document["breakdown"]["reads_ahead"]:
        return ["more processes (loader.workers)", "less work per sample in the dataset", "data that fits in memory"]
    if document["breakdown"]["resident"]:
        return ["larger batches (batch.size), each of which is taken at once", "a lighter data.sampling"]
    return ["processes that read ahead (loader.workers)", "data that fits in memory, as tensors"]


def _shorter_numbers(document: Document) -> list[str]:
    """Precisions in which matrix products are faster here than in that of the step."""
    rates, now = document["hardware"]["rates"], document["breakdown"]["arithmetic"]
    own = rates.get(f"matmul.{now}")
    found = []
    for dtype in ("tf32", "bf16", "fp16"):
        other = rates.get(f"matmul.{dtype}")
        faster = _ratio(other, own)
        if faster > _FASTER:
            knob = "precision.matmul high" if dtype == "tf32" else f"precision.dtype {dtype}"
            found.append(f"{knob}, in which products are {faster:.1f}x as fast here")
    return found


def _other_format(document: Document) -> list[str]:
    rates, breakdown = document["hardware"]["rates"], document["breakdown"]
    if not breakdown["convolves"] or document["task"]["baseline"]["memory"]["format"] != "contiguous":
        return []
    dtype = {"tf32": "fp32"}.get(breakdown["arithmetic"], breakdown["arithmetic"])
    old, new = (rates.get(f"convolution.{dtype}.{layout}") for layout in ("contiguous", "channels_last"))
    faster = _ratio(new, old)
    if faster < _FASTER:
        return []
    return [f"memory.format channels_last, in which convolutions are {faster:.1f}x as fast here"]


def _ratio(rate: Document | None, other: Document | None) -> float:
    """How many times one rate is another; 0 where one was not measured. Of processor time where both have it."""
    if rate is None or other is None:
        return 0.0
    key = "per_s" if None in (rate["per_cpu_s"], other["per_cpu_s"]) else "per_cpu_s"
    return float(rate[key] / other[key])


def _other_size(document: Document) -> list[str]:
    """How many samples at once pass forward and backward fastest, if that beats the baseline's number clearly."""
    dtype, found = document["task"]["baseline"]["precision"]["dtype"], document["breakdown"]
    passes_s = sum(found["pieces"][name]["wall_s"] for name in ("forward", "backward"))
    rows = [row for row in document["steps"]["micro"] if row["dtype"] == dtype and "seconds" in row]
    best = max(rows, key=lambda row: row["micro"] / row["seconds"], default=None)
    if best is None or best["micro"] / best["seconds"] < _FASTER * found["samples"] / passes_s:
        return []
    faster = best["micro"] / best["seconds"] * passes_s / found["samples"]
    return [f"{best['micro']} samples at once, which pass {faster:.2g}x as fast (batch.size, batch.accumulation)"]


def _share(share: float) -> str:
    return f"{share:.0%}" if share <= 1 else "all and more"


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
    pieces, step, on_cpu = found["pieces"], found["step"], _on_cpu(document)
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
    seconds = found["step"]["cpu_s" if _on_cpu(document) else "wall_s"]
    flops, key = found["step_flops"], "per_cpu_s" if _on_cpu(document) else "per_s"
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

"""What bounds a step, in a sentence, and what could help, from what was measured of the machine and of the step.

Plain values in, plain text out; what bounds it is decided by `cost.roofline`. Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoaccel.report.progress import duration

Document = Mapping[str, Any]
"""A profile, as `inspection.profile` gives it."""
_FASTER = 1.1
"""How many times faster something has to be to be worth a word."""
_LITTLE = 0.25
"""Below this share of the step no ceiling explains much of it."""


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


def on_cpu_of(document: Document) -> bool:
    """Whether trials run on the CPU, so that ceilings are compared in processor seconds."""
    return bool(document["hardware"]["device"] == "cpu")


def _whole(document: Document) -> str:
    """What a step takes, in the seconds that are compared with ceilings."""
    step = document["breakdown"]["step"]
    return f"{duration(step['cpu_s'])} of CPU time" if on_cpu_of(document) else duration(step["wall_s"])


def _could_help(document: Document) -> list[str]:
    """What could make the step faster, by what bounds it and what was measured."""
    return {"compute": _less_compute, "memory": _less_traffic, "launch": _fewer_launches, "loader": _faster_loader}[
        document["roofline"]["bound"]
    ](document)


def _less_compute(document: Document) -> list[str]:
    found = [*_shorter_numbers(document), *_other_format(document), *_other_size(document)]
    if (document["roofline"]["mfu"] or 1.0) < 0.5:
        found += _compiling(document, "compiling (compile.mode), which fuses what is not a matrix product")
    return [*found, "fewer FLOPs: smaller samples early (curriculum.*), a smaller model"]


def _less_traffic(document: Document) -> list[str]:
    found = [*_compiling(document, "compiling (compile.mode), which fuses operations"), *_shorter_numbers(document)]
    return [*found, *_other_format(document), *_fused_update(document), "smaller samples early (curriculum.*)"]


def _fewer_launches(document: Document) -> list[str]:
    found = _other_size(document) or ["larger batches (batch.size)"]
    graphs = "CUDA graphs (compile.mode reduce-overhead)"
    how = graphs if document["hardware"]["device"] == "cuda" else "compiling (compile.mode)"
    return [*found, *_compiling(document, how), *_fused_update(document)]


def _faster_loader(document: Document) -> list[str]:
    if document["breakdown"]["reads_ahead"]:
        return ["more processes (loader.workers)", "less work per sample in the dataset", "data that fits in memory"]
    if document["breakdown"]["resident"]:
        return ["larger batches (batch.size), each of which is taken at once", "a lighter data.sampling"]
    return ["processes that read ahead (loader.workers)", "data that fits in memory, as tensors"]


def _compiling(document: Document, how: str) -> list[str]:
    return [how] if document["task"]["baseline"]["compile"]["mode"] == "off" else []


def _fused_update(document: Document) -> list[str]:
    """Where the update is split on purpose: by itself it is fused wherever it can be."""
    is_split = document["task"]["baseline"]["optim"]["kernel"] in ("foreach", "loop")
    return ["a fused update (optim.kernel auto)"] if is_split else []


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

"""Paired ratios with their intervals, and the figures of the document. Pure; what was not measured is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.estimates import median_interval

GPU_WORKLOAD = "cifar_net"

Row = dict[str, Any]
Pair = Mapping[str, Any]
"""One pair: workload, contestant, steps, batch, and seconds of both sides: ours_s, other_s, ours_cpu_s, other_cpu_s."""


def row_of(pairs: Sequence[Pair]) -> Row:
    """What the pairs of one workload and contestant say.

    The ratio is samples per second of ours over those of the other: the median of the pairs, with a 95 % bootstrap
    interval of that median. A pair in which something else took the machine moves neither.
    """
    ratios = [pair["other_s"] / pair["ours_s"] for pair in pairs]
    low, high = median_interval(ratios)
    samples = pairs[0]["steps"] * pairs[0]["batch"]
    return {
        "workload": pairs[0]["workload"],
        "contestant": pairs[0]["contestant"],
        "pairs": len(pairs),
        "samples_per_s": samples / median(pair["other_s"] for pair in pairs),
        "ours_samples_per_s": samples / median(pair["ours_s"] for pair in pairs),
        "ratio": median(ratios),
        "low": low,
        "high": high,
        "cpu_ratio": median(pair["other_cpu_s"] / pair["ours_cpu_s"] for pair in pairs),
    }


def rows_of(pairs: Sequence[Pair]) -> list[Row]:
    """A row per workload and contestant, in the order of the pairs."""
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair["workload"], pair["contestant"]), []).append(pair)
    return [row_of(group) for group in groups.values()]


def figures(
    rows: Sequence[Row], workloads: Sequence[str], peers: Mapping[str, bool], variants: Sequence[str] = ()
) -> dict[str, Any]:
    """All figures by name.

    Args:
        rows: see `row_of`.
        workloads: all of the protocol; a minimum over them is None while one is missing.
        peers: names of the peers, and whether each is in the form that its documentation shows.
        variants: our own trainer with settings changed; their speed-up on the workload that is for a GPU.
    """
    table = {(row["workload"], row["contestant"]): row for row in rows}
    bare = [table.get((workload, "bare")) for workload in workloads]
    keeping = [table.get((workload, "bare_keeps_memory")) for workload in workloads]
    fastest = [
        _fastest([row for row in rows if row["workload"] == w and row["contestant"] in peers]) for w in workloads
    ]
    documented = [name for name, is_documented in peers.items() if is_documented]
    whole = [name for name in peers if name not in documented]
    found: dict[str, Any] = {
        "vs_bare_min": _least(bare),
        "vs_fastest_peer_min": _least(fastest),
        "vs_median_peer_small_cnn": _against_the_median(table, documented),
        "vs_bare_keeps_memory_min": _least(keeping),
        "vs_median_peer_small_cnn_whole_batches": _against_the_median(table, whole),
    }
    for workload, row in zip(workloads, fastest, strict=True):
        found[f"fastest_peer_{workload}"] = row["contestant"] if row else None
    for variant in variants:
        row = table.get((GPU_WORKLOAD, variant))
        found[f"gpu_{variant.removeprefix('ours_')}_speedup"] = 1 / row["ratio"] if row else None
    return found


def _fastest(rows: Sequence[Row]) -> Row | None:
    return min(rows, key=lambda row: row["ratio"], default=None)


def _least(rows: Sequence[Row | None]) -> float | None:
    """The smallest lower bound, once there is one for every workload."""
    lows = [row["low"] for row in rows if row is not None]
    return min(lows) if lows and len(lows) == len(rows) else None


def _against_the_median(table: Mapping[tuple[str, str], Row], names: Sequence[str]) -> float | None:
    """Our ratio to the peer in the middle; of two, the faster one."""
    ratios = sorted(table["small_cnn", name]["ratio"] for name in names if ("small_cnn", name) in table)
    return ratios[(len(ratios) - 1) // 2] if ratios else None

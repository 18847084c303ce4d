"""The methods we are measured against: PEERS by name, and which of them cannot run here.

Every peer is driven on the bench's clock; the time its library takes to suggest is not charged. Libraries are imported
when a peer runs, Optuna excepted, which the package needs anyway. Must not know any problem.
"""

from __future__ import annotations

import importlib.util

from benchmarks.search.peers.baseline_peers import BASELINE_PEERS
from benchmarks.search.peers.botorch_peers import BOTORCH_PEERS
from benchmarks.search.peers.desk import Peer
from benchmarks.search.peers.flaml_peers import FLAML_PEERS
from benchmarks.search.peers.optuna_peers import OPTUNA_PEERS
from benchmarks.search.peers.ray_peers import RAY_PEERS
from benchmarks.search.peers.smac_peers import SMAC_PEERS
from benchmarks.search.peers.syne_peers import SYNE_PEERS

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (*OPTUNA_PEERS, *RAY_PEERS, *SMAC_PEERS, *FLAML_PEERS, *SYNE_PEERS, *BOTORCH_PEERS, *BASELINE_PEERS)
}

NOT_ADAPTED = {"hebo": "HEBO 0.3.6, its last release, asks for numpy < 1.25 and this package for 2; BoTorch instead"}
"""Libraries that were to be here, and why they are not."""


def missing() -> dict[str, str]:
    """Peer -> why it cannot run here."""
    reasons = dict(NOT_ADAPTED)
    for peer in PEERS.values():
        absent = [name for name in peer.needs if importlib.util.find_spec(name) is None]
        if absent:
            reasons[peer.name] = f"not installed: {', '.join(absent)} (see benchmarks/search/peers/requirements.txt)"
    return reasons


__all__ = ["PEERS", "Peer", "missing"]

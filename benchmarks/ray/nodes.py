"""Two Ray nodes on this machine: prints 'ADDRESS host:port', removes the second at 'drop', ends at 'end'."""

from __future__ import annotations

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    print(f"ADDRESS {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "drop":
            cluster.remove_node(second, allow_graceful=False)
        else:
            break
    cluster.shutdown()


if __name__ == "__main__":
    main()

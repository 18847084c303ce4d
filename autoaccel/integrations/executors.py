"""Where the trials of a job run: the one place that knows all executors. Ray is only loaded where it is asked for."""

from __future__ import annotations

from pathlib import Path

from autoaccel.execution.base import Executor
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.execution.slots import device_slots
from autoaccel.job import Job
from autoaccel.store.run import WORKER_LOG


def executor_for(job: Job, source: TaskSource | None, folder: Path) -> Executor:
    """The executor of a job; what it writes goes to `folder`.

    Raises:
        UsageError: fewer devices than wished, or of different kinds.
        EnvironmentFaultError: no Ray, or no room on it.
    """
    log = folder / WORKER_LOG
    if job.executor == "local":
        return LocalExecutor(source, log, device_slots(job.devices, job.n_slots))
    from autoaccel.execution.ray_cluster import RayCluster, connect

    cluster = RayCluster(job.ray_address, job.ray_resources)
    if job.executor == "ray":
        from autoaccel.execution.ray import RayExecutor

        return RayExecutor(source, log, job.n_slots, job.devices, cluster)
    connection = connect(cluster, source)  # before Ray is imported, which reads the environment then
    from autoaccel.integrations.ray_executor import RayTuneExecutor

    return RayTuneExecutor(connection, folder, job.n_slots, job.devices, cluster)

"""A task on its way to the workers: by reference where it has one, else pickled by value.

Imports nothing of the task's. Must not know how workers are started.
"""

from __future__ import annotations

from autoaccel.errors import UsageError
from autoaccel.execution.local import TaskSource
from autoaccel.tasks.base import Task
from autoaccel.tasks.load import check_reference


def task_source(reference: str | None, task: Task | None) -> TaskSource:
    """What workers get; checked as far as that is possible without importing anything.

    Raises:
        UsageError: no task, or one that cannot be sent.
    """
    if reference is not None:
        check_reference(reference)
        return TaskSource(reference=reference)
    if not isinstance(task, Task):
        raise UsageError(f"tune: {task!r} is not a Task", "Build one with autoaccel.Task(...).")
    import cloudpickle

    try:
        return TaskSource(pickled=cloudpickle.dumps(task))
    except Exception as error:
        raise UsageError(
            f"task {task.name!r} cannot be sent to a worker process: {error}",
            "Remove locks, open files and connections from the task, or define it in a file and pass 'file.py:name'.",
        ) from error

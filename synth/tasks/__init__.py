"""All tasks, by name: importing a file registers what it holds. A new task is one new file and one line here."""

from synth.tasks import (  # noqa: F401  (imported for what they register)
    absent,
    attribute,
    compare,
    count,
    count_by_pointing,
    describe,
    exists,
    facts,
    find_all,
    find_one,
    identify,
    measure,
    numbers,
    relation,
    teacher_steps,
    where,
    words,
)
from synth.tasks.base import TASKS, UNSEEN, Draft, Step, Task, task

__all__ = ["TASKS", "UNSEEN", "Draft", "Step", "Task", "task"]

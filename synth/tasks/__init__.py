"""All tasks, by name: importing a file registers what it holds. A new task is one new file and one line here."""

from synth.tasks import (  # noqa: F401  (imported for what they register)
    absent,
    attribute,
    compare,
    compare_counts,
    count,
    count_by_pointing,
    describe,
    exists,
    facts,
    find_all,
    find_attribute,
    find_one,
    grounded_caption,
    identify,
    measure,
    multi_hop,
    nearer,
    numbers,
    odd_one_out,
    ordinal,
    points,
    predicate,
    regions,
    relation,
    segment,
    several,
    superlative,
    teacher_steps,
    where,
    words,
    writing,
)
from synth.tasks.base import TASKS, UNSEEN, Draft, Step, Task, task

__all__ = ["TASKS", "UNSEEN", "Draft", "Step", "Task", "task"]

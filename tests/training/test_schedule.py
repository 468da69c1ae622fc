import pytest
import torch

from lynx_moe.training.schedule import BudgetedCosine, TimeBudget, warmup_cosine


class Clock:
    """A clock that moves when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def scheduler(total_steps: int, budget: TimeBudget, warmup: float = 0.0) -> BudgetedCosine:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return BudgetedCosine(optimizer, total_steps=total_steps, warmup=warmup, budget=budget)


def rates(schedule: BudgetedCosine, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return seen


def test_rate_rises_then_falls_and_no_step_is_wasted_on_zero():
    seen = rates(scheduler(100, TimeBudget(), warmup=0.1), 100)
    assert all(r > 0 for r in seen)
    assert seen[:10] == sorted(seen[:10]) and seen[10:] == sorted(seen[10:], reverse=True)
    assert 0.99 < max(seen) <= 1.0 and seen[-1] < 1e-3


def test_rate_is_symmetric_about_the_middle_of_the_cosine():
    seen = rates(scheduler(50, TimeBudget()), 50)
    assert seen == pytest.approx([1 - r for r in reversed(seen)])


def test_spent_time_brings_the_rate_down_as_far_as_spent_steps_would():
    clock = Clock()
    budget = TimeBudget(60, clock)
    schedule = scheduler(1000, budget)
    budget.start()
    clock.now += 45
    budget.tick()
    schedule.optimizer.step()
    schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(warmup_cosine(0.75, 0.0))


def test_fast_machine_follows_its_steps_when_time_is_plenty():
    clock = Clock()
    budget = TimeBudget(1e9, clock)
    assert rates(scheduler(20, budget), 20) == rates(scheduler(20, TimeBudget()), 20)


def test_budget_is_spent_exactly_when_its_seconds_are():
    clock = Clock()
    budget = TimeBudget(10, clock)
    clock.now += 1000  # before the start: loading, not training
    budget.start()
    clock.now += 9
    budget.tick()
    assert not budget.spent and budget.fraction == pytest.approx(0.9)
    clock.now += 1
    budget.tick()
    assert budget.spent


def test_budget_without_a_limit_is_never_spent():
    clock = Clock()
    budget = TimeBudget(None, clock)
    budget.start()
    clock.now += 1e9
    budget.tick()
    assert not budget.spent and budget.fraction == 0.0


def test_resumed_schedule_continues_where_the_saved_one_stood():
    whole = rates(scheduler(30, TimeBudget(), warmup=0.2), 30)
    first = scheduler(30, TimeBudget(), warmup=0.2)
    rates(first, 12)
    second = scheduler(30, TimeBudget(), warmup=0.2)
    second.load_state_dict(first.state_dict())
    assert rates(second, 18) == pytest.approx(whole[12:])


def test_seconds_spent_before_a_resume_still_count():
    clock = Clock()
    budget = TimeBudget(10, clock)
    budget.start()
    clock.now += 7
    budget.tick()
    later = TimeBudget(10, clock)
    scheduler(5, later).load_state_dict(scheduler(5, budget).state_dict())
    later.start()
    clock.now += 4
    later.tick()
    assert later.spent

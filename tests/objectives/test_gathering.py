"""Rows of several processes: what each gets, and where gradients go back to."""

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import torch.nn.functional as F

from lynx_moe.objectives.gathering import gathered
from lynx_moe.ops.contrast import info_nce_to

WIDTH = 4


def loss_of(query, ids, targets, known):
    right = (ids[:, None] == known[None, :, 0]).int().argmax(1)
    barred = torch.zeros(len(query), len(targets), dtype=torch.bool)
    return info_nce_to(query @ F.normalize(targets, dim=-1).T, right, barred).sum() + 0 * targets.sum()


def made(count: int, seed: int):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(count, WIDTH, generator=draw) for _ in range(2))


ROUNDS = ((3, 2), (2, 0), (0, 0))  # targets of each process


def one_process(rank: int, file: str, found) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for counts in ROUNDS:
        query, own = made(counts[rank], rank)
        own.requires_grad_()
        ids = (torch.arange(counts[rank]) + 10 * rank)[:, None]
        targets, known = gathered(own, ids)
        loss = loss_of(query, ids[:, 0], targets, known) if len(targets) else 0 * targets.sum()
        loss.backward()
        with torch.no_grad():
            alone, _ = gathered(own, ids)
        found.put((rank, targets.tolist(), known[:, 0].tolist(), own.grad.tolist(), len(alone)))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_get_all_targets_and_the_joint_gradient_whoever_has_none(tmp_path):
    queue = processes.get_context("spawn").SimpleQueue()
    processes.spawn(one_process, (str(tmp_path / "meet"), queue), nprocs=2)
    found = [queue.get() for _ in range(2 * len(ROUNDS))]
    for round_, counts in enumerate(ROUNDS):
        one, two = ([each for each in found if each[0] == rank][round_] for rank in range(2))
        assert one[1] == two[1] and one[2] == two[2] == [*range(counts[0]), *range(10, 10 + counts[1])]
        assert (one[4], two[4]) == counts, "while nothing is learned nobody waits"
        queries, targets = zip(*(made(count, rank) for rank, count in enumerate(counts)), strict=True)
        joint = torch.cat(targets).requires_grad_()
        known = torch.tensor(one[2], dtype=torch.long)[:, None]
        if len(joint):
            loss_of(torch.cat(queries), known[:, 0], joint, known).backward()
            torch.testing.assert_close(torch.tensor(one[3] + two[3]), joint.grad)


def test_one_process_alone_gets_its_own():
    rows, ids = torch.ones(2, 3), torch.ones(2, 1)
    assert gathered(rows, ids) == (rows, ids)

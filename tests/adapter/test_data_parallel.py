"""Invariant 4 across processes: the penalties' gradients are averaged like everything else."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from lynx_moe.adapter import set_gate
from tests import tiny
from tests.adapter.speaking import adapted

pytestmark = pytest.mark.slow


def shard(inputs, rank):
    return {k: v[rank : rank + 1] for k, v in inputs.items()}


def gradients(model):
    return {n.removeprefix("module."): p.grad for n, p in model.named_parameters() if p.requires_grad}


def train_one_step(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model, inputs = tiny.tiny_llava()
    peft_model = adapted(model, gate_sparsity=5.0).train()
    parallel = DistributedDataParallel(peft_model)
    own = shard(inputs, rank)
    # One rank has no open row at all: it must take part in the reduction all the same.
    with set_gate(peft_model, rank == 0):
        parallel(**own, labels=own["input_ids"]).loss.backward()
    torch.save(gradients(parallel), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_average_penalties_and_shut_rows(tmp_path):
    mp.spawn(train_one_step, (str(tmp_path),), nprocs=2)
    model, inputs = tiny.tiny_llava()
    mean = {}
    for rank in range(2):
        peft_model = adapted(copy.deepcopy(model), gate_sparsity=5.0).train()
        own = shard(inputs, rank)
        with set_gate(peft_model, rank == 0):
            peft_model(**own, labels=own["input_ids"]).loss.backward()
        for name, gradient in gradients(peft_model).items():
            mean[name] = mean.get(name, 0) + gradient / 2
    for rank in range(2):
        for name, gradient in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(gradient, mean[name], msg=name)

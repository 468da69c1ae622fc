"""The processes of a run: how they find each other, and what number of them a run can use."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sized
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from lynx_moe.data import RecordSet
from lynx_moe.data.records import NO_PICTURE
from lynx_moe.errors import ConfigError
from lynx_moe.training.settings import TrainerSettings
from lynx_moe.training.sharding import LAUNCHED, Sharding, use_gloo_alone

ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
USE_CPU = "ACCELERATE_USE_CPU"  # set by `accelerate launch --cpu`


@contextmanager
def process_group(sharding: Sharding) -> Iterator[PartialState]:
    """Inside, the processes that a launcher started know each other: over NCCL on GPUs, over gloo on CPUs.

    Also where accelerate by itself would not see to it: it finds no backend off a GPU and makes every process the first
    one, and it drops DeepSpeed where it is told to use the CPU. A run without a launcher is a group of one.

    Raises:
        ConfigError: DeepSpeed on the CPU is asked for where there is a GPU.
    """
    cuda = torch.cuda.is_available()
    if sharding.is_deepspeed and cuda and os.environ.get(USE_CPU, "").lower() == "true":
        raise ConfigError(
            f"accelerate was told to use the CPU, and sharding.kind is {sharding.kind!r}",
            why="DeepSpeed takes the GPU that is there",
            fix="launch without --cpu, or hide the GPU: CUDA_VISIBLE_DEVICES=",
        )
    alone = sharding.kind != "none" and "LOCAL_RANK" not in os.environ
    wanted: dict[str, str | None] = {**ALONE, "MASTER_PORT": str(free_port())} if alone else {}
    if sharding.is_deepspeed:
        wanted |= {LAUNCHED: "true", USE_CPU: None} | ({} if cuda else {"DS_ACCELERATOR": "cpu"})
    with environment(wanted):
        # What an earlier run of this process left; a group that is there is taken over, not made twice.
        AcceleratorState._reset_state(reset_partial_state=True)
        if sharding.is_deepspeed:
            if not cuda:
                use_gloo_alone()
            here = PartialState(backend=None if cuda else "gloo")
        else:
            here = PartialState(cpu=not cuda)
        try:
            yield here
        finally:
            # transformers would load the next base of this process in parts, too.
            unset_hf_deepspeed_config()
            if alone and dist.is_initialized():
                dist.destroy_process_group()
                AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def environment(wanted: dict[str, str | None]) -> Iterator[None]:
    """Inside, these environment variables; None for one that must not be there."""
    before = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def refuse_mixed_pictures(sharding: Sharding, records: RecordSet) -> None:
    """Nothing, when every batch calls the same modules, as processes must that hold a part of each weight.

    Raises:
        ConfigError: some records have a picture and some have none, so one process may look where another does not,
            and both would wait for each other forever.
    """
    if not sharding.divides_weights:
        return
    without = sum(records.picture(k) == NO_PICTURE for k in range(len(records)))
    if 0 < without < len(records):
        raise ConfigError(
            f"{without} of {len(records)} records have no picture, and sharding.kind is {sharding.kind!r}",
            why="every process holds a part of the vision tower's weights, so all have to look at the same time",
            fix="use sharding=zero2, or train on records that all have pictures",
        )


def refuse_too_few_records(dataset: Sized, trainer: TrainerSettings, processes: int) -> None:
    """Nothing, when one step's rows exist for every process.

    With fewer, samplers fill up with rows that others have too, and a step counts them twice.

    Raises:
        ConfigError: they do not.
    """
    rows = trainer.batch_size * trainer.accumulate * processes
    if processes > 1 and len(dataset) < rows:
        raise ConfigError(
            f"{len(dataset)} rows to train on, and one step of {processes} processes takes {rows}",
            why=f"that is trainer.batch_size={trainer.batch_size} times trainer.accumulate={trainer.accumulate} times "
            f"{processes} processes",
            fix="take fewer processes, a smaller trainer.batch_size or trainer.accumulate, or more records",
        )

"""FSDP2 on two CPU processes: decoder layers wrapped with `fully_shard` train as one process does."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lynx_moe.adapter import set_gate
from tests import tiny
from tests.adapter.speaking import adapted

pytestmark = pytest.mark.slow

SETTINGS = {"gate_sparsity": 5.0, "attention_rank": 2}
# One rank's rows are all shut: it must take part in every gathering all the same.
OPEN = (True, False)


def shard(inputs, rank):
    return {k: v[rank : rank + 1] for k, v in inputs.items()}


def losses_and_gradients(peft_model, inputs, is_open):
    with set_gate(peft_model, is_open):
        loss = peft_model.train()(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    with torch.no_grad(), set_gate(peft_model, is_open):
        logits = peft_model.eval()(**inputs).logits
    return loss.item(), {n: p.grad for n, p in peft_model.named_parameters() if p.requires_grad}, logits


def train_one_step(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model, inputs = tiny.tiny_llava()
    peft_model = adapted(model, **SETTINGS)
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(peft_model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in peft_model.parameters())
    loss, gradients, logits = losses_and_gradients(peft_model, shard(inputs, rank), OPEN[rank])
    whole = {name: gradient.full_tensor() for name, gradient in gradients.items()}
    torch.save({"loss": loss, "gradients": whole, "logits": logits}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_sharded_layers_give_the_gradients_of_one_process(tmp_path):
    mp.spawn(train_one_step, (str(tmp_path),), nprocs=2)
    expected, mean = [], {}
    for rank in range(2):
        model, inputs = tiny.tiny_llava()
        loss, gradients, logits = losses_and_gradients(adapted(model, **SETTINGS), shard(inputs, rank), OPEN[rank])
        expected.append((loss, logits))
        for name, gradient in gradients.items():
            mean[name] = mean.get(name, 0) + gradient / 2
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt")
        assert seen["loss"] == pytest.approx(expected[rank][0], rel=1e-5)
        torch.testing.assert_close(seen["logits"], expected[rank][1], rtol=1e-4, atol=1e-5)
        assert seen["gradients"].keys() == mean.keys()
        for name, gradient in seen["gradients"].items():
            torch.testing.assert_close(gradient, mean[name], rtol=1e-4, atol=1e-6, msg=name)

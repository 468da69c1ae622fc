"""DeepSpeed ZeRO-3 on two CPU processes: partitioned stacked weights train as whole ones do. Needs the extra deepspeed.

No leaf module has to be declared: every weight is read by the module that owns it, inside its own forward, and every
rank runs every block, whatever its rows' gates and its tokens' experts are.
"""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lynx_moe.adapter import fit_prompt_gate, set_gate
from tests import tiny
from tests.adapter.speaking import adapted

pytestmark = pytest.mark.slow

LR, STEPS = 0.1, 2
SETTINGS = {"gate_sparsity": 5.0, "attention_rank": 2, "prompt_gate": "auto"}
ZERO3 = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_clipping": 0.0,  # DeepSpeed clips to a norm of 1 unless told; what is compared with does not
    # Everything is partitioned, also the smallest tensor; the default would keep tensors of a tiny model whole.
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def build():
    model, inputs = tiny.tiny_llava()
    peft_model = adapted(model, **SETTINGS)
    words = [[t for t in row if t > 9] for row in inputs["input_ids"].tolist()]
    fit_prompt_gate(peft_model, words * 4, [True, False] * 4)  # row 0 asks for grounding, row 1 does not
    return peft_model, inputs


def shard(inputs, rank):
    return {k: v[rank : rank + 1] for k, v in inputs.items()}


def train(rank, port, folder):
    os.environ.update(
        DS_ACCELERATOR="cpu",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import deepspeed

    # Its shared-memory transport would be compiled first, for minutes; gloo alone will do.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", verbose=False)
    peft_model, inputs = build()
    optimiser = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=LR)
    engine, *_ = deepspeed.initialize(model=peft_model, optimizer=optimiser, config=ZERO3)
    own, losses = shard(inputs, rank), []
    assert all(p.numel() == 0 for n, p in engine.module.named_parameters() if ".lynx_" in n), "nothing is partitioned"
    for _ in range(STEPS):
        engine.train()
        loss = engine(**own, labels=own["input_ids"]).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    with torch.no_grad():
        # One rank's rows are open, the other's shut: both must gather the same weights, or they wait for each other.
        engine.eval()
        logits = engine(**own).logits
        with set_gate(engine.module, rank == 1):
            turned = engine(**own).logits
    new = {n: p for n, p in engine.module.named_parameters() if p.requires_grad}
    with deepspeed.zero.GatheredParameters(list(new.values())):
        state = {n: p.detach().clone() for n, p in new.items()}
    torch.save({"losses": losses, "state": state, "logits": logits, "turned": turned}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def by_hand():
    """The same in one process: gradients of both shards averaged, plain SGD."""
    peft_model, inputs = build()
    new = {n: p for n, p in peft_model.named_parameters() if p.requires_grad}
    losses = []
    for _ in range(STEPS):
        peft_model.train().zero_grad()
        both = [peft_model(**own, labels=own["input_ids"]).loss for own in (shard(inputs, 0),)]
        both[0].backward()
        both.append(peft_model(**shard(inputs, 1), labels=shard(inputs, 1)["input_ids"]).loss)
        both[1].backward()
        with torch.no_grad():
            for parameter in new.values():
                parameter -= LR * parameter.grad / 2
        losses.append([loss.item() for loss in both])
    with torch.no_grad():
        peft_model.eval()
        logits = [peft_model(**shard(inputs, rank)).logits for rank in range(2)]
        turned = []
        for rank in range(2):
            with set_gate(peft_model, rank == 1):
                turned.append(peft_model(**shard(inputs, rank)).logits)
    return losses, {n: p.detach() for n, p in new.items()}, logits, turned


def test_partitioned_weights_train_as_whole_ones_do(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = {n: p.detach().clone() for n, p in copy.deepcopy(build()[0]).named_parameters()}
    mp.spawn(train, (port, str(tmp_path)), nprocs=2)
    losses, state, logits, turned = by_hand()
    assert all((state[n] - before[n]).abs().max() > 0 for n in state), "the steps move every tensor"
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt")
        assert seen["losses"] == pytest.approx([step[rank] for step in losses], rel=1e-4)
        assert seen["state"].keys() == state.keys()
        for name, tensor in seen["state"].items():
            torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=1e-5, msg=name)
        torch.testing.assert_close(seen["logits"], logits[rank], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(seen["turned"], turned[rank], rtol=1e-4, atol=1e-4)

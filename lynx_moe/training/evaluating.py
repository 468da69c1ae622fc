"""The loss on records that are never trained on, measured now and then without disturbing the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import Dataset

from lynx_moe.training.loss import AnswerLoss
from lynx_moe.training.method import open_gate
from lynx_moe.training.state import same_random_numbers


class HeldOut:
    """Held-out samples, and the loss of a model on all of them together.

    Args:
        samples: rows such as are trained on.
        collate: makes a batch of a list of rows.
        batch_size: rows per forward and process.
    """

    def __init__(self, samples: Dataset, collate: Callable[[list], dict], batch_size: int):
        self.samples = samples
        self.collate = collate
        self.batch_size = batch_size

    @torch.no_grad()
    def measure(self, model: nn.Module, loss: AnswerLoss, accelerator: Accelerator) -> dict[str, float]:
        """The "eval_loss", and the terms it is the weighed sum of: "eval_answer_loss", with retention
        "eval_retention_kl", and those of objectives.

        Means over all answer tokens of the set (objectives': over their items), as in training, with the gate open and
        dropout off. Every process calls it and gets the same numbers. Random numbers, mode and gradients stay as they
        were.
        """
        device, was_training = accelerator.device, model.training
        # Of each term its sum, in nats or what it counts in, and over how many tokens or items.
        nats, tokens = (torch.zeros(len(loss.terms), device=device) for _ in range(2))
        model.eval()
        try:
            with same_random_numbers(device), open_gate(model):
                for counted, batch in self._batches(accelerator):
                    batch = send_to_device(batch, device)
                    own = loss.counts(batch)
                    # Where all processes must run the same modules, all decide by the same counts.
                    counts = accelerator.reduce(own, "sum") if loss.jointly else own
                    terms = loss(model, batch, counts).terms
                    means = [terms[name].float() if name in terms else nats.new_zeros(()) for name in loss.terms]
                    nats += torch.stack(means) * counts * counted
                    tokens += own * counted
        finally:
            model.train(was_training)
        nats, tokens = (accelerator.reduce(value, "sum") for value in (nats, tokens))
        means = zip(loss.terms, (nats / tokens.clamp(min=1)).tolist(), tokens.tolist(), strict=True)
        # Nothing to measure a term on is no 0.0.
        measured = {name: mean for name, mean, count in means if count}
        whole = sum(loss.terms[name] * mean for name, mean in measured.items())
        return {"eval_loss": whole} | {f"eval_{name}": mean for name, mean in measured.items()}

    def _batches(self, accelerator: Accelerator) -> Iterator[tuple[int, dict]]:
        """(1, batch) of this process's share; (0, batch) to keep step with processes that have one more."""
        processes = accelerator.num_processes
        share = range(accelerator.process_index, len(self.samples), processes)
        rounds = math.ceil(math.ceil(len(self.samples) / processes) / self.batch_size)
        for start in range(0, rounds * self.batch_size, self.batch_size):
            chosen = share[start : start + self.batch_size]
            yield int(len(chosen) > 0), self.collate([self.samples[k] for k in chosen or [0]])

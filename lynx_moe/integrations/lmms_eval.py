"""Our models in lmms-eval (0.7): its tasks and its scoring, for a base, a run, an adapter or an export.

    lmms_eval --model lynx_moe --model_args pretrained=outputs/run,gate=auto --tasks pope,gqa --batch_size 16

lmms-eval finds this by the entry-point group `lmms_eval.models`. Its own questions are put to the model as they stand,
answers are greedy. lmms-eval is imported only when it asks for the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch

from lynx_moe.errors import ConfigError

CLASS = "LynxMoe"
IMAGE_MARK = "<image>"  # how some tasks write a picture into their text; our prompts place pictures themselves
MOST_NEW_TOKENS = 256  # where a task does not say
# Asked for by some tasks as their default, and without meaning for greedy decoding.
HARMLESS = {"temperature": (0, None), "top_p": None, "num_beams": (1, None), "do_sample": (False, None)}


def manifest() -> Any:
    """What the entry point gives lmms-eval: where the model's class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="lynx_moe", simple_class_path=f"{__name__}.{CLASS}")


def __getattr__(name: str) -> Any:
    if name == CLASS:
        return model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def model_class() -> type:
    """The class that lmms-eval makes the model of; made here because its base class comes from lmms-eval."""
    from lmms_eval.api.model import lmms

    class LynxMoe(lmms):
        """Answers lmms-eval's requests.

        Args:
            pretrained: a run folder, an adapter, an export, or a base VLM.
            gate: of a run or an adapter: auto, on or off.
            base: the base under an adapter, where it does not say.
            dialect: how boxes are written; only grounding tasks need it.
            device: where the model goes; None: the first GPU, else the CPU.
            batch_size: prompts per forward.

        Raises:
            ConfigError: a setting that nothing can honour, or more than one process.
        """

        is_simple = True

        def __init__(
            self,
            pretrained: str,
            gate: str = "auto",
            base: str | None = None,
            dialect: str | None = None,
            device: str | None = None,
            batch_size: int | str = 1,
            max_batch_size: int | None = None,
            trust_remote_code: bool = False,
            **unknown: Any,
        ):
            from lynx_moe.data import SampleBuilder
            from lynx_moe.loading import load

            super().__init__()
            refuse_settings(unknown, batch_size)
            loaded = load(pretrained, base=base, dialect=dialect, trust_remote_code=trust_remote_code)
            self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model = loaded.model.to(self._device)
            self.batch_size = int(batch_size)
            self._builder = SampleBuilder(loaded.processor, loaded.dialect)
            self._gate = ExitStack()
            self._gate.enter_context(loaded.gate(gate))

        @property
        def device(self) -> torch.device:
            return self._device

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """What the model writes to each request, greedily, up to the first of the request's stop strings."""
            from lynx_moe.evaluation import generate_answers

            asked = [self._asked(*request.args) for request in requests]
            answers: list[str] = [""] * len(asked)
            # Only answers of one length limit can share a batch.
            for limit in sorted({limit for _, limit, _ in asked}):
                places = [k for k, entry in enumerate(asked) if entry[1] == limit]
                records = [asked[k][0] for k in places]
                made = generate_answers(
                    self.model, self._builder, records, batch_size=self.batch_size, max_new_tokens=limit
                )
                for k, answer in zip(places, made, strict=True):
                    answers[k] = cut_at(answer.text, asked[k][2])
            for request, answer in zip(requests, answers, strict=True):
                self.cache_hook.add_partial("generate_until", request.args[:2], answer)
            return answers

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Log probability of each continuation as the answer, and whether greedy decoding would write it."""
            return [self._likelihood(*request.args) for request in requests]

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise ConfigError(
                "lynx_moe answers no tasks of several rounds",
                why="a record is one question and one answer, in training too",
                fix="choose tasks whose output_type is generate_until or loglikelihood",
            )

        def _asked(
            self, context: str, settings: dict, to_visual: Callable, number: int, task: str, split: str
        ) -> tuple[Any, int, list[str]]:
            """Record, most new tokens, and stop strings of a request."""
            refuse_sampling(settings, task)
            stops = settings.get("until") or []
            return (
                self._record(context, to_visual, number, task, split),
                int(settings.get("max_new_tokens") or MOST_NEW_TOKENS),
                [stops] if isinstance(stops, str) else list(stops),
            )

        def _record(
            self, context: str, to_visual: Callable | None, number: int, task: str, split: str, answer: str = ""
        ) -> Any:
            from lynx_moe.data import Record
            from lynx_moe.data.records import Picture

            def images() -> list:
                return (to_visual(self.task_dict[task][split][number]) if to_visual else None) or []

            # Decoded again when they are asked about: those of a whole benchmark would not fit in memory.
            sizes = [image.size for image in images()]
            name = f"{task}/{split}/{number}"
            first, *others = [
                Picture(f"{name}/{k}", size, lambda k=k: images()[k]) for k, size in enumerate(sizes)
            ] or [Picture("", None, None)]
            question = context.replace(IMAGE_MARK, "").strip()
            return Record(
                id=name, question=question, answer=answer, kind="understanding", task=task,
                image_id=first.image_id, size=first.size, load=first.load, more=tuple(others),
            )  # fmt: skip

        @torch.no_grad()
        def _likelihood(
            self, context: str, target: str | Callable, to_visual: Callable, number: int, task: str, split: str
        ) -> tuple[float, bool]:
            answer = target if isinstance(target, str) else target(self.task_dict[task][split][number])
            sample = self._builder(self._record(context, to_visual, number, task, split, answer.strip()))
            labels_L = sample.pop("labels")
            del sample["is_grounding"]
            dtype = next(self.model.parameters()).dtype
            # Tokens lack the batch axis, pictures have theirs.
            inputs = {
                name: (value[None] if len(value.shape) == 1 and len(value) == len(labels_L) else value).to(
                    self._device, dtype if value.is_floating_point() else None
                )
                for name, value in sample.items()
            }
            if hasattr(self.model, "peft_config"):
                # An adapter's prompt gate decides on the prompt alone, and tells it from the answer by the labels.
                inputs["labels"] = labels_L[None].to(self._device)
            log_LV = self.model(**inputs).logits[0].float().log_softmax(-1).cpu()
            learned = (labels_L != -100).nonzero()[:, 0]
            # The end of the answer is not part of the continuation.
            learned = learned[:-1] if labels_L[learned[-1]] == self._builder.tokenizer.eos_token_id else learned
            chosen_L = log_LV[learned - 1].gather(-1, labels_L[learned, None])[:, 0]
            return float(chosen_L.sum()), bool((log_LV[learned - 1].argmax(-1) == labels_L[learned]).all())

    LynxMoe.__qualname__ = CLASS
    return LynxMoe


def refuse_settings(unknown: dict[str, Any], batch_size: int | str) -> None:
    if unknown:
        raise ConfigError(
            f"model_args {', '.join(sorted(unknown))} are unknown",
            why="a setting that nothing honours would change nothing",
            fix="pretrained, gate, base, dialect, device, batch_size, trust_remote_code",
        )
    if not str(batch_size).isdigit():
        raise ConfigError(f"batch_size {batch_size!r}", why="it is a number of prompts", fix="--batch_size 16")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "lynx_moe runs in one process under lmms-eval",
            why="its answers are not gathered from several",
            fix="start it without accelerate launch or torchrun; run tasks side by side, a GPU for each",
        )


def refuse_sampling(settings: dict[str, Any], task: str) -> None:
    """Raises ConfigError when a task wants more than greedy answers: they would not be what it asks for."""
    wanted = {
        name: settings[name]
        for name, allowed in HARMLESS.items()
        if allowed is not None and settings.get(name) not in allowed
    }
    if wanted:
        raise ConfigError(
            f"task {task!r} asks for {wanted}",
            why="answers are greedy here",
            fix="--gen_kwargs temperature=0,do_sample=False,num_beams=1",
        )


def cut_at(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stop strings that is in it."""
    places = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(places)].strip() if places else text

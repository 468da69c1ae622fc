"""Answers that a model writes by itself: batched, in an order that does not depend on the batch size, and greedy unless
samples are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lynx_moe.data import Collator, Record, SampleBuilder
from lynx_moe.data.collate import pad_id
from lynx_moe.data.pictures import side_by_side
from lynx_moe.data.prompts import frame
from lynx_moe.data.sample import Tokens
from lynx_moe.data.targets import TARGET
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.spoken_masks import Masks, spoken_masks
from lynx_moe.evaluation.token_text import spoken
from lynx_moe.families.last_states import decoder_of
from lynx_moe.objectives import Objective
from lynx_moe.objectives.attached import serving_heads, targets_of

# Whatever a checkpoint's generation config asks for: coordinates repeat digits, and a penalty on repetition would make
# the ruler another one for each model.
PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}
LOGIT_BYTES = 2 << 30  # that the logits of a batch's answers may take while they are kept


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer: its text, its token ids and their log probabilities (empty unless asked for).

    `masks` are those of its words for one, in reading order, in pixels of the picture; None where a word's last token
    was the last that was let through. Empty for a model without a head for masks.
    """

    text: str
    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...] = ()
    masks: Masks = ()


def generate_answers(
    model,
    builder: SampleBuilder,
    records: Sequence[Record],
    *,
    batch_size: int = 64,
    max_new_tokens: int = 256,
    progress: bool = True,
    with_probabilities: bool = False,
    constrain: bool = False,
    temperature: float = 0.0,
    seed: int = 0,
    logits_processor: Sequence[Callable] = (),
) -> list[Generated]:
    """What `model` answers to each of `records`, in the order of `records`.

    Greedy decoding from the prompt alone, without the penalties that a checkpoint's generation config may ask for;
    nothing of the true answer is shown. Prompts of like length share a batch, are padded on the left and masked, so
    batches cost little; the batch size changes greedy answers at most by the rounding of matrix products.

    Args:
        model: a generating VLM, plain or with an adapter, on its device.
        builder: words and tokenises the prompts.
        batch_size: prompts per forward; fewer where probabilities are asked for and the logits would take gigabytes.
        max_new_tokens: answers are cut there.
        progress: show a bar.
        with_probabilities: also return each token's log probability, as the model itself gives it: of the logits
            before `constrain` and `temperature`.
        constrain: a box that was opened in the builder's dialect goes on as a well-formed one, inside the frame of its
            picture (`Dialect.grammar`); only `max_new_tokens` can still cut it off. Answers without a box are the same.
        temperature: 0 is greedy; else tokens are drawn from the softmax of logits / temperature.
        seed: of the draws.
        logits_processor: called with tokens and logits at each step, as transformers does; behind `constrain`.

    Raises:
        ConfigError: the temperature is negative.
        DialectError: the answers are to be constrained, and the dialect writes no boxes, or the tokenizer cannot write
            them.
    """
    if temperature < 0:
        raise ConfigError(f"temperature {temperature}", why="it divides logits", fix="give 0 (greedy) or more")
    records = list(records)
    if with_probabilities:
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        batch_size = max(1, min(batch_size, LOGIT_BYTES // (4 * vocabulary * max(max_new_tokens, 1))))
    answers: dict[int, Generated] = {}
    heads = serving_heads(model)
    # Free callers ask one question after the other: what a picture's tokens are is asked of the processor once.
    builder = builder.with_targets(targets_of(heads), repr({name: head.settings for name, head in heads.items()}))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with _bar(progress) as bar, _drawing(model, seed, temperature > 0):
            task = bar.add_task("answering", total=len(records))
            for chosen, batch in prompt_batches(builder, records, batch_size):
                asked = [records[k] for k in chosen]
                how = _sampling(temperature) | (_constraint(builder, asked) if constrain else {})
                how["logits_processor"] = [*how.get("logits_processor", ()), *logits_processor]
                made = _generate(model, heads, builder, asked, batch, max_new_tokens, with_probabilities, how)
                answers.update(zip(chosen, made, strict=True))
                bar.advance(task, len(chosen))
    finally:
        for module, training in modes:
            module.training = training
    return [answers[k] for k in range(len(records))]


def prompt_batches(
    builder: SampleBuilder, records: Sequence[Record], batch_size: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """(positions in `records`, model inputs) of each batch: prompts of like length together, padded on the left."""
    prompts = builder.prompts(records)
    lengths = [builder.length(tokens, record.sizes) for tokens, record in zip(prompts, records, strict=True)]
    order = sorted(range(len(prompts)), key=lambda k: (lengths[k], k))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, _batch(builder, [(prompts[k], records[k]) for k in chosen])


def _batch(builder: SampleBuilder, chosen: list[tuple[Tokens, Record]]) -> dict[str, torch.Tensor]:
    pictures: dict[tuple[str, int], dict] = {}
    samples = []
    for tokens, record in chosen:
        ids = builder.spread(tokens, record.sizes)
        sample = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.ones(len(ids), dtype=torch.long),
            **builder.token_types(ids),
            **builder.target_tensors(tokens, record.sizes, len(ids)),
        }
        # Questions about one picture often share a batch; free callers may leave image_id empty.
        names = [record.image_id, *(each.image_id for each in record.more)] if record.has_image else []
        keys = [(name, 0) if name else (record.id, k) for k, name in enumerate(names)]
        for k, key in enumerate(keys):
            if key not in pictures:
                image = record.image(k)
                pictures[key] = builder.pixels(image) | builder.picture_targets(image)
        samples.append(sample | side_by_side([pictures[key] for key in keys]))
    return Collator(builder.processor, side="left")(samples)


def _sampling(temperature: float) -> dict:
    if not temperature:
        return {"do_sample": False}
    # The model's own distribution: no cut that a checkpoint's generation config may ask for.
    whole = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    return {"do_sample": True, "temperature": temperature, **whole}


@contextmanager
def _drawing(model, seed: int, drawing: bool) -> Iterator[None]:
    """Draws depend on `seed` alone, and leave the random numbers of the caller as they were."""
    if not drawing:
        yield
        return
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _constraint(builder: SampleBuilder, records: Sequence[Record]) -> dict:
    from transformers import LogitsProcessorList

    from lynx_moe.evaluation.constrained import OnlyWholeBoxes, vocabulary

    dialect, tokenizer = builder.dialect, builder.tokenizer
    sizes = [frame(record, record.picture) for record in records]
    grammars = {size: dialect.grammar(size) for size in set(sizes)}
    words = vocabulary(tokenizer, len(tokenizer), dialect.marks)
    return {"logits_processor": LogitsProcessorList([OnlyWholeBoxes(words, [grammars[size] for size in sizes])])}


@torch.no_grad()
def _generate(
    model,
    heads: dict[str, Objective],
    builder: SampleBuilder,
    records: Sequence[Record],
    batch: dict,
    max_new_tokens: int,
    with_probabilities: bool,
    how: dict,
) -> list[Generated]:
    tokenizer = builder.tokenizer
    first = next(model.parameters())
    moved = {name: value.to(first.device) for name, value in batch.items()}
    inputs = {
        name: value.to(first.dtype) if value.is_floating_point() else value
        for name, value in moved.items()
        if not name.startswith(TARGET)
    }
    with ExitStack() as around:
        seen = {
            name: around.enter_context(head.answering(decoder_of(model.get_base_model()), moved))
            for name, head in heads.items()
        }
        out = model.generate(
            **inputs,
            **PLAIN,
            **how,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad_id(builder.processor),
            eos_token_id=answer_ends(model, tokenizer),
            return_dict_in_generate=True,
            output_logits=with_probabilities,
        )
    ends = answer_ends(model, tokenizer)
    new_BL = out.sequences[:, inputs["input_ids"].shape[1] :].cpu()
    log_BL = None
    if with_probabilities:
        logits_BLV = torch.stack([step.float().cpu() for step in out.logits], dim=1)
        log_BL = logits_BLV.log_softmax(-1).gather(-1, new_BL[..., None])[..., 0]
    answers = []
    for row, ids in enumerate(new_BL.tolist()):
        text, kept = spoken(ids, ends, tokenizer, builder.dialect.marks)
        length = len(kept)
        answers.append(
            Generated(
                text=text,
                ids=tuple(kept),
                log_probabilities=tuple(log_BL[row, :length].tolist()) if log_BL is not None else (),
            )
        )
    if "masks" in seen:
        said = [(answer.text, answer.ids) for answer in answers]
        masks = spoken_masks(seen["masks"], builder.processor, builder.dialect, records, said)
        answers = [replace(answer, masks=own) for answer, own in zip(answers, masks, strict=True)]
    return answers


def answer_ends(model, tokenizer) -> list[int]:
    """The tokens that end an answer: the model's own list, and the tokenizer's EOS, which ends answers in training."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None})


def _bar(shown: bool) -> Progress:
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, disable=not shown, transient=True
    )

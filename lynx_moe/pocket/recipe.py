"""Train the pocket base from scratch: first its eyes on patch labels, then looking and language together.

Two phases in one run, both without a single box:

* warm-up: every patch that shows an object must name it, through the language model's own word embeddings (so that
  visual tokens start where words are), which of its sub-cells are inked, where it is itself, and how wide and tall
  the object is;
* main: next-token loss on many questions per picture, packed behind one shared picture prefix, with the warm-up's
  losses kept at a lower weight.
"""

from __future__ import annotations

import gc
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from lynx_moe.pocket.build import build_model, build_processor
from lynx_moe.pocket.material import CELLS, GRID, Material, attention_mask, load, pack, texts
from lynx_moe.pocket.tokenizer import train_tokenizer

GAME = 1000  # owners from here on are text-only parts: they do not see the picture


@dataclass(kw_only=True, slots=True)
class Recipe:
    """Everything that decides the weights, besides the data."""

    steps: int = 10_000
    begin: int = 0  # step at which the learning rate's cosine starts: a finished run goes on with begin=its last step
    warmup_steps: int = 1200
    batch: int = 32
    length: int = 192
    lr: float = 1.5e-3
    seed: int = 0
    compile: bool = True
    log_every: int = 50
    save_every: int = 250


class Eyes(nn.Module):
    """What training adds and the release drops: heads that read a visual token's ink, place and object's extent.

    They read what the language model gets, after the projector: what only the tower knows is of no use to an answer.
    The place head came after a model trained without it answered "where" no better than blind; that naming patches
    makes them forget where they are is our guess at the reason, not a measured one.
    """

    def __init__(self, width: int):
        super().__init__()
        self.ink = nn.Linear(width, CELLS * CELLS)
        self.row = nn.Linear(width, GRID)
        self.column = nn.Linear(width, GRID)
        self.extent = nn.Linear(width, 2)

    def forward(self, seen_BPD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ink logits (B, P, cells), extents (B, P, 2) and the mean loss of telling each patch's row and column, ()."""
        ink = self.ink(seen_BPD)
        row_BPG, column_BPG = self.row(seen_BPD).float(), self.column(seen_BPD).float()
        place = torch.arange(GRID * GRID, device=seen_BPD.device).expand(len(seen_BPD), -1).flatten()
        rows = F.cross_entropy(row_BPG.flatten(0, 1), place // GRID)
        columns = F.cross_entropy(column_BPG.flatten(0, 1), place % GRID)
        return ink, self.extent(seen_BPD), (rows + columns) / 2


class Lessons:
    """How well each task is known, so that what is known less is asked more (our choice)."""

    def __init__(self, tasks: dict[str, int]):
        self.names = list(tasks)
        self.frequency = np.array(list(tasks.values()), float) / max(1, *tasks.values())
        self.skill = np.full(len(tasks), 0.5)  # running share of right answers

    def weights(self) -> np.ndarray:
        """Chance of a question by its task (T,): less for the common task and for the known one."""
        return (1.1 - self.skill) / np.sqrt(self.frequency)

    def mark(self, tasks: np.ndarray, right: np.ndarray, rate: float = 0.02) -> None:
        for k in range(len(self.names)):
            if (tasks == k).any():
                self.skill[k] += rate * (right[tasks == k].mean() - self.skill[k])

    def __str__(self) -> str:
        return " ".join(f"{name} {skill:.2f}" for name, skill in zip(self.names, self.skill, strict=True))


def train(
    folders: list[Path], work: Path, recipe: Recipe, val_folder: Path | None = None, start: Path | None = None
) -> Path:
    """Run the recipe on the shards in ``folders``, log to ``work/log.txt`` and return the folder of the final model.

    Resumes from ``work/state.safetensors`` when it is there; otherwise begins with the weights and the tokenizer in
    ``start``, if given. Deterministic up to the machine's arithmetic.
    """
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    tokenizer_folder = work / "tokenizer"
    if not tokenizer_folder.exists():
        known = AutoTokenizer.from_pretrained(start) if start else train_tokenizer(texts(folders, "train", 300_000))
        known.save_pretrained(tokenizer_folder)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    material = load(folders, "train", tokenizer)
    held_out = load([val_folder or folders[0]], "val", tokenizer)
    model = build_model(tokenizer).train()
    nn.init.normal_(model.get_input_embeddings().weight, std=0.05)
    if start:
        model.load_state_dict(LlavaForConditionalGeneration.from_pretrained(start).float().state_dict())
    eyes = Eyes(model.config.text_config.hidden_size)
    parameters = [p for p in (*model.parameters(), *eyes.parameters()) if p.requires_grad]
    decay = [p for p in parameters if p.dim() > 1]
    rest = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)
    lessons = Lessons(material.tasks)
    step = _resume(work, model, eyes, optimizer, lessons)
    image_id = model.config.image_token_index
    prefix = tokenizer("<s>USER: <image>\n".replace("<image>", "<image>" * GRID**2))["input_ids"]
    text_prefix = np.asarray(tokenizer("<s>USER:")["input_ids"], np.int16)
    first = prefix.index(image_id)
    see, forward = _see(model, eyes), _forward(model, eyes, first)
    if recipe.compile:
        forward = torch.compile(forward)
    log = open(work / "log.txt", "a", buffering=1)  # open for the whole run
    log.write(f"{len(material.asked)} pictures, {len(material.games)} games, vocabulary {len(tokenizer)}\n")
    gc.freeze()  # or every collection would walk through millions of questions
    began, sums, count = time.time(), np.zeros(7), 0
    while step < recipe.steps:
        warm = step < recipe.warmup_steps
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _schedule(step, recipe)
        rng = np.random.default_rng((recipe.seed, step))
        if warm:
            picks = rng.integers(len(material.asked), size=recipe.batch)
            sight = warm_up_losses(model, see, material, picks)
            lm, right, asked = torch.zeros(()), 0, 0
            sight.sum().backward()
        else:
            batch = make_batch(material, rng, recipe, prefix, text_prefix, tokenizer.pad_token_id, lessons.weights())
            lm, sight, marks = losses(model, forward, batch)
            lessons.mark(*marks)
            right, asked = int(marks[1].sum()), len(marks[1])
            (lm + 0.3 * sight.sum()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        sums += (lm.item(), *sight.tolist(), right, asked)
        count += 1
        if step % recipe.log_every == 0:
            log.write(f"step {step} {_line(sums, count)} {time.time() - began:.0f} s\n")
            sums, count = np.zeros(7), 0
        if step % recipe.save_every == 0 or step == recipe.steps:
            _save_state(work, model, eyes, optimizer, step, lessons)
            found = _held_out(model, forward, held_out, recipe, prefix, text_prefix, tokenizer.pad_token_id)
            log.write(f"  held out {found}\n")
            _release(work / "model", model, tokenizer)
    log.close()
    return work / "model"


def make_batch(material: Material, rng, recipe: Recipe, prefix, text_prefix, pad: int, weights, picks=None):
    """A batch of packed rows: a picture, as many of its questions as fit, and now and then a text game.

    Questions are drawn by the ``weights`` (T,) of their tasks.
    """
    picks = rng.integers(len(material.asked), size=recipe.batch) if picks is None else picks
    rows = []
    for k in picks:
        asked = material.asked[k]
        chances = rng.random(len(asked)) ** (1 / weights[[task for *_, task in asked]])  # a weighted permutation
        parts = [asked[j] for j in np.argsort(-chances)]
        games = []
        if material.games:
            for j in rng.integers(len(material.games), size=int(rng.random() < 0.6)):
                question, answer = material.games[j]
                games.append((np.concatenate([text_prefix, question]), answer))
        room = recipe.length - sum(len(q) + len(a) for q, a in games)
        ids, labels, positions, owner = pack(prefix, parts, room, pad)
        end = int((owner >= 0).sum())
        task = np.array([-1, *(t for *_, t in parts), -1])[owner]  # of each token; neither prefix nor padding has one
        full = [np.full(recipe.length, v, np.int64) for v in (pad, -100, 0, -1, -1)]
        for whole, part in zip(full, (ids, labels, positions, owner, task), strict=True):
            whole[:end] = part[:end]
        for g, (question, answer) in enumerate(games):
            n = len(question) + len(answer)
            full[0][end : end + n] = np.concatenate([question, answer])
            full[1][end + len(question) : end + n] = answer
            full[2][end : end + n] = np.arange(n)
            full[3][end : end + n] = GAME + g
            end += n
        rows.append(full)
    ids, labels, positions, owner, task = (torch.from_numpy(np.stack(x)) for x in zip(*rows, strict=True))
    mask = attention_mask(owner)
    mask = mask.masked_fill(((owner[:, :, None] >= GAME) & (owner[:, None, :] == 0))[:, None], -1e4)
    return ids, labels, positions, mask, _pixels(material, picks), _patch_targets(material, picks), owner, task


def _see(model, eyes: Eyes):
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector

    def see(pixels):
        features = tower(pixels, output_hidden_states=True).hidden_states[-1]
        seen = projector(features)
        return seen, *eyes(seen)

    return see


def _forward(model, eyes: Eyes, first: int):
    decoder, embed, see = model.model.language_model, model.get_input_embeddings(), _see(model, eyes)
    last = first + GRID**2

    def forward(ids_BL, pixels, mask, positions_BL):
        seen, *read = see(pixels)
        e = embed(ids_BL)
        e = torch.cat([e[:, :first], seen.to(e.dtype), e[:, last:]], 1)
        out = decoder(inputs_embeds=e, attention_mask=mask, position_ids=positions_BL, use_cache=False)
        return out.last_hidden_state, seen, *read

    return forward


def warm_up_losses(model, see, material: Material, picks: np.ndarray):
    """The losses of sight (4,) of the pictures ``picks``, without the decoder."""
    with torch.autocast("cpu", torch.bfloat16):
        read = see(_pixels(material, picks))
    return _sight_losses(model, *read, *_patch_targets(material, picks))


def losses(model, forward, batch):
    """Return the answers' loss, the losses of sight (4,), and each part's task (-1: a text game) and if it is right.

    Right means every token of the answer, under teacher forcing.
    """
    ids, labels, positions, mask, pixels, patches, owner, task = batch
    with torch.autocast("cpu", torch.bfloat16):
        hidden, *read = forward(ids, pixels, mask.to(torch.bfloat16), positions)
    sight = _sight_losses(model, *read, *patches)
    answered = labels[:, 1:] != -100
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(hidden[:, :-1][answered]).float()
    target = labels[:, 1:][answered]
    lm = F.cross_entropy(logits, target)
    wrong = logits.argmax(-1) != target
    part = (torch.arange(len(owner))[:, None] * 10_000 + owner)[:, 1:][answered]
    _, inverse = part.unique(return_inverse=True)
    failed = torch.zeros(int(inverse.max()) + 1).index_add_(0, inverse, wrong.float()) > 0
    asked = torch.zeros(len(failed), dtype=torch.long).index_copy_(0, inverse, task[:, 1:][answered])
    return lm, sight, (asked.numpy(), (~failed).numpy())


def _pixels(material: Material, picks: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(material.pixels[picks]).float().div_(127.5).sub_(1.0)


def _patch_targets(material: Material, picks: np.ndarray) -> tuple[torch.Tensor, ...]:
    kinds = (material.words, np.int64), (material.ink, np.float32), (material.extent, np.float32)
    return tuple(torch.from_numpy(x[picks].astype(dtype)) for x, dtype in kinds)


def _sight_losses(model, seen, ink, extent, place, words, ink_true, extent_true) -> torch.Tensor:
    """Naming patches (nats), ink (nats), extent (tenths of the picture's side) and place (nats): (4,)."""
    named = words[..., 0] >= 0
    with torch.autocast("cpu", torch.bfloat16):
        log_p = F.linear(seen[named], model.get_input_embeddings().weight).float().log_softmax(-1)
    targets = words[named]
    valid = targets >= 0
    word_loss = -(log_p.gather(1, targets.clamp(min=0)) * valid).sum() / valid.sum().clamp(min=1)
    ink_loss = F.binary_cross_entropy_with_logits(ink.float(), ink_true)
    extent_loss = 10 * (extent[named].float() - extent_true[named]).abs().mean()
    return torch.stack([word_loss, ink_loss, extent_loss, place])


@torch.no_grad()
def _held_out(model, forward, material: Material, recipe: Recipe, prefix, text_prefix, pad) -> str:
    model.eval()
    rng = np.random.default_rng(0)
    total, known = np.zeros(7), Lessons(material.tasks)
    rounds = max(1, min(len(material.asked) // recipe.batch, 12))
    for k in range(rounds):
        picks = np.arange(k * recipe.batch, (k + 1) * recipe.batch) % len(material.asked)
        batch = make_batch(material, rng, recipe, prefix, text_prefix, pad, np.ones(len(known.names)), picks)
        lm, sight, (tasks, right) = losses(model, forward, batch)
        known.mark(tasks, right, rate=1 / (k + 1))
        total += (lm.item(), *sight.tolist(), right.sum(), len(right))
    model.train()
    return f"{_line(total, rounds)} · {known}"


def _line(sums: np.ndarray, count: int) -> str:
    """Mean losses, and the share of questions answered wholly right under teacher forcing."""
    means = zip(("lm", "words", "ink", "extent", "place"), sums[:5] / count, strict=True)
    return f"{' '.join(f'{name} {mean:.3f}' for name, mean in means)} right {sums[5] / max(1, sums[6]):.3f}"


def _schedule(step: int, recipe: Recipe) -> float:
    ramp = min(1.0, (step - recipe.begin + 1) / 100)
    done = (step - recipe.begin) / (recipe.steps - recipe.begin)
    return ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _named(model, eyes):
    return [(n, p) for n, p in (*model.named_parameters(), *eyes.named_parameters("eyes")) if p.requires_grad]


def _save_state(work: Path, model, eyes, optimizer, step: int, lessons: Lessons) -> None:
    state = {"step": torch.tensor(step), "skill": torch.from_numpy(lessons.skill)}
    for name, p in _named(model, eyes):
        state[f"p.{name}"] = p.detach()
        for key, value in optimizer.state[p].items():
            state[f"o.{key}.{name}"] = value
    aside = work / "state.aside"
    save_file({k: v.contiguous().clone() for k, v in state.items()}, aside)
    os.replace(aside, work / "state.safetensors")


def _resume(work: Path, model, eyes, optimizer, lessons: Lessons) -> int:
    path = work / "state.safetensors"
    if not path.exists():
        return 0
    state = load_file(path)
    with torch.no_grad():
        for name, p in _named(model, eyes):
            if f"p.{name}" not in state:  # a head that came later starts anew
                continue
            p.copy_(state[f"p.{name}"])
            keys = [k for k in state if k.startswith("o.") and k.split(".", 2)[2] == name]
            optimizer.state[p] = {k.split(".", 2)[1]: state[k] for k in keys}
    if "skill" in state and len(state["skill"]) == len(lessons.skill):
        lessons.skill = state["skill"].numpy()
    return int(state["step"])


def _release(folder: Path, model, tokenizer) -> None:
    """Write what users load: float32 weights rounded to bfloat16, tokenizer, processor."""
    rounded = build_model(tokenizer)
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)

"""How far guessing gets that never sees the picture: what it gains over chance, a model could learn without looking.

Three guessers see the words of the question only: always the commonest answer; the commonest answer to this very
question; and multinomial naive Bayes over its words and pairs of neighbouring words. Where the answer is one of the
things the question names, they guess which one. The best of the three on questions about other pictures is reported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synth.quality.even import counting
from synth.quality.wordings import Parsed, words_of

_CHOICE = 0.9  # share of the questions that must name their answer among several things
_MOST_ANSWERS = 2000  # naive Bayes knows the commonest so many
_MOST_FEATURES = 5000


@dataclass(frozen=True, slots=True)
class Example:
    """One question and its answer."""

    question: Parsed
    answer: str


@dataclass(frozen=True, slots=True)
class Blind:
    """Shares of the held-out questions, 0 to 1.

    ``chance`` is one over the number of answers that count for a wording (at least a quarter as frequent as its
    commonest one; never fewer than two, for a question with one answer asks nothing), averaged over the held-out
    questions; ``majority`` always guesses the commonest answer of all.
    """

    fitted: int
    held_out: int
    answers: int
    chance: float
    majority: float
    per_question: float
    naive_bayes: float

    @property
    def best(self) -> float:
        return max(self.majority, self.per_question, self.naive_bayes)

    @property
    def points_over_chance(self) -> float:
        """Percentage points that the best guesser gains over chance."""
        return 100 * (self.best - self.chance)


def blind(fit: Sequence[Example], held_out: Sequence[Example]) -> Blind:
    """Fit the guessers on some questions and try them on others; both must be non-empty.

    Raises ``ValueError`` when one is empty: there is nothing to say then.
    """
    if not fit or not held_out:
        raise ValueError("a blind baseline needs questions to fit and questions held out")
    chosen = sum(_is_choice(e) for e in fit) >= _CHOICE * len(fit)
    known, asked = ([_labelled(e, chosen) for e in part] for part in (fit, held_out))
    answers = Counter(label for _, label in known)
    commonest = answers.most_common(1)[0][0]
    per_question = defaultdict(Counter)
    per_wording = defaultdict(Counter)
    for example, (_, label) in zip(fit, known, strict=True):
        per_question[example.question.words][label] += 1
        per_wording[example.question.wording][label] += 1
    choices = {wording: max(2, len(counting(seen))) for wording, seen in per_wording.items()}
    fallback = max(2, len(counting(answers)))
    right, chance = 0, 0.0
    for example, (_, label) in zip(held_out, asked, strict=True):
        seen = per_question.get(example.question.words)
        right += label == (seen.most_common(1)[0][0] if seen else commonest)
        chance += 1 / choices.get(example.question.wording, fallback)
    guesses = _naive_bayes(known, [words for words, _ in asked])
    n = len(held_out)
    return Blind(
        fitted=len(fit), held_out=n, answers=len(answers), chance=chance / n,
        majority=sum(label == commonest for _, label in asked) / n, per_question=right / n,
        naive_bayes=sum(guess == label for guess, (_, label) in zip(guesses, asked, strict=True)) / n,
    )  # fmt: skip


def _is_choice(example: Example) -> bool:
    slots = example.question.slots
    return len(slots) > 1 and " ".join(words_of(example.answer)) in slots


def _labelled(example: Example, chosen: bool) -> tuple[list[str], str]:
    """The features of a question and what is to be guessed: the answer, or the place of the right thing."""
    words = [w for w in example.question.words]
    features = words + [f"{one} {two}" for one, two in zip(words, words[1:], strict=False)]
    slots = example.question.slots
    if chosen:
        features += [f"{k}:{w}" for k, slot in enumerate(slots) for w in (slot, *slot.split())]
        answer = " ".join(words_of(example.answer))
        return features, f"#{slots.index(answer)}" if answer in slots else example.answer
    return features, example.answer


def _naive_bayes(known: list[tuple[list[str], str]], asked: list[list[str]]) -> list[str]:
    """Guess by log P(answer) + sum of log P(feature | answer), add-one smoothed."""
    labels = [label for label, _ in Counter(label for _, label in known).most_common(_MOST_ANSWERS)]
    places = {label: k for k, label in enumerate(labels)}
    common = Counter(f for features, _ in known for f in features).most_common(_MOST_FEATURES)
    columns = {f: k for k, (f, _) in enumerate(common)}
    counts = np.ones((len(labels), len(columns)))
    prior = np.zeros(len(labels))
    for features, label in known:
        if label in places:
            prior[places[label]] += 1
            np.add.at(counts[places[label]], [columns[f] for f in features if f in columns], 1)
    weights = np.log(counts) - np.log(counts.sum(1, keepdims=True))
    prior = np.log(prior)
    guesses = []
    for features in asked:
        seen = [columns[f] for f in features if f in columns]
        guesses.append(labels[int((prior + weights[:, seen].sum(1)).argmax())])
    return guesses

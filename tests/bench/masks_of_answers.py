"""What masks cost while answering: `python tests/bench/masks_of_answers.py RUN DATA [BATCH [QUESTIONS]]`.

RUN is a finished run with the objective `masks`, DATA a folder with questions that are answered with a mask. The same
questions are answered in turn with the head and without it (the same words, no masks), and the times compared.
"""

import sys

from lynx_moe.bench.timing import compare, in_turn, prepared
from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.evaluation import generate_answers
from lynx_moe.loading import load
from lynx_moe.objectives.attached import name_of_heads

SECONDS = 60.0


def main(run: str, data: str, batch_size: int = 1, questions: int = 16) -> None:
    loaded = load(run)
    builder = SampleBuilder(loaded.processor, loaded.dialect)
    records = [r for r in load_records(data, "validation", limit=1000) if r.speaks_masks][:questions]
    beside, name = loaded.model.base_model._modules, name_of_heads(loaded.model)
    heads = beside[name]

    def answers(with_masks: bool):
        if with_masks:
            beside[name] = heads
        else:
            beside.pop(name, None)
        with loaded.gate("on"):
            return generate_answers(loaded.model, builder, records, batch_size=batch_size, progress=False)

    with prepared(1):
        found = answers(True)
        drawn = sum(mask is not None for answer in found for mask in answer.masks)
        assert [answer.ids for answer in found] == [answer.ids for answer in answers(False)]
        ways = {"without": lambda _: answers(False), "with": lambda _: answers(True)}
        timed = compare(in_turn(ways, lambda: None, repeats=5, seconds=SECONDS), to="without")["with"]
    tokens = sum(len(answer.ids) for answer in found) / len(found)
    print(
        f"{len(found)} answers of {tokens:.1f} tokens, {drawn} masks, batches of {batch_size}: with masks "
        f"{timed['ratio']:.3f} times the time without (quartiles {timed['ratio_low']:.3f} to "
        f"{timed['ratio_high']:.3f}, {timed['rounds']} rounds)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]))

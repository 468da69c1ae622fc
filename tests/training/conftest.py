"""A tiny LLaVA saved as a folder, and a small folder of records beside it: what a run needs."""

import pytest

from lynx_moe.training.settings import (
    AdapterSettings,
    DataSettings,
    ModelSettings,
    ObjectiveSettings,
    Settings,
    TrainerSettings,
)
from tests.data.written import picture, record, write_folder
from tests.tiny import tiny_llava_with_processor

THINGS = ("cat", "dog", "star", "circle", "square", "ring")
COLOURS = ("red", "green", "blue", "yellow")


def written_records(first: int, count: int) -> tuple[list[dict], list[dict]]:
    """`count` pictures with one grounding and one understanding record each."""
    records, pictures = [], []
    for k in range(first, first + count):
        thing, colour = THINGS[k % len(THINGS)], COLOURS[(k + k // 12) % len(COLOURS)]
        pictures.append(picture(f"p{k}", (32, 32), (40 * k % 256, 20, 90)))
        records.append(
            record(
                k,
                id=f"{k}/find",
                image_id=f"p{k}",
                question=f"Find the {colour} {thing}.",
                answer=f"The {colour} {thing} is at {{box:0}}.",
                boxes=[[2.0, 3.0, 9.0 + k % 20, 12.0 + k % 15]],
            )
        )
        records.append(
            record(k, id=f"{k}/what", image_id=f"p{k}", task="identify", kind="understanding", phrase="",
                   question=f"What color is the {thing} , is it {colour}?", answer=colour)
        )  # fmt: skip
    return records, pictures


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("base"), *tiny_llava_with_processor())


def saved(folder, model, processor) -> str:
    """The folder of a base, as `from_pretrained` opens it."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder, [written_records(12, 5)], split="validation")
    return str(write_folder(folder, [written_records(0, 12)]))


def made(
    base_folder: str,
    data_folder: str,
    *,
    retention_kl: float = 0.0,
    adapter: dict | None = None,
    data: dict | None = None,
    **trainer,
) -> Settings:
    """Trainer settings by name, the other groups by theirs."""
    quiet = {"batch_size": 4, "log_every": 1, "save_every": 0, "progress": False, "precision": "fp32", **trainer}
    quiet.setdefault("report_to", [])
    return Settings(
        model=ModelSettings(path=base_folder),
        # Not "auto": fitting the gate takes longer than the few steps of these runs.
        adapter=AdapterSettings(**{"prompt_gate": "on", **(adapter or {})}),
        data=DataSettings(**{"folder": data_folder, **(data or {})}),
        trainer=TrainerSettings(**quiet),
        objective=ObjectiveSettings(retention_kl=retention_kl),
    )


@pytest.fixture
def settings(base_folder, data_folder, tmp_path):
    """`settings(max_steps=4, retention_kl=1.0, ...)`: as `made`, into a folder of the test."""

    def make(**chosen) -> Settings:
        settings = made(base_folder, data_folder, **chosen)
        settings.output_dir = str(tmp_path / "run")
        return settings

    return make

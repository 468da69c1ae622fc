"""The checker over a finished dataset folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from synth.check import faults, scene_from
from synth.folder import finished
from synth.record import named_pictures


def check_folder(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (id, faults) of every record of a finished dataset folder; a good record has none.

    Raises ``SourceError`` when the folder holds no finished dataset.
    """
    splits = finished(folder)["splits"]
    for records in sorted((folder / "records").glob("*.parquet")):
        masks = splits[records.name.partition("-")[0]]["settings"].get("masks", False)
        images = pq.ParquetFile(folder / "images" / records.name)
        columns = [name for name in images.schema_arrow.names if name != "image"]
        scenes = {
            row["image_id"]: scene_from(row)
            for batch in images.iter_batches(columns=columns) for row in batch.to_pylist()
        }  # fmt: skip
        for batch in pq.ParquetFile(records).iter_batches():
            for record in batch.to_pylist():
                found = [scenes.get(image_id) for image_id in named_pictures(record)]
                lost = None in found
                told = ["its picture is lost"] if lost else list(faults(record, *found or [None], masks=masks))
                yield record["id"], told

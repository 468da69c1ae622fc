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
    finished(folder)
    for records in sorted((folder / "records").glob("*.parquet")):
        images = pq.ParquetFile(folder / "images" / records.name)
        columns = [name for name in images.schema_arrow.names if name != "image"]
        scenes = {
            row["image_id"]: scene_from(row)
            for batch in images.iter_batches(columns=columns) for row in batch.to_pylist()
        }  # fmt: skip
        for batch in pq.ParquetFile(records).iter_batches():
            for record in batch.to_pylist():
                found = [scenes.get(image_id) for image_id in named_pictures(record)]
                yield record["id"], ["its picture is lost"] if None in found else list(faults(record, *found or [None]))

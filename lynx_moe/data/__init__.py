"""From records on disk to batches: reading, wording, tokenising, padding and packing. No training, no scoring."""

from lynx_moe.data.collate import Collator
from lynx_moe.data.dataset import SampleDataset
from lynx_moe.data.folder import load_records
from lynx_moe.data.packed import PackedDataset
from lynx_moe.data.prompts import final_answer, question_text, target_text
from lynx_moe.data.records import Record, RecordSet, Step
from lynx_moe.data.sample import SampleBuilder

__all__ = [
    "Collator",
    "PackedDataset",
    "Record",
    "RecordSet",
    "SampleBuilder",
    "SampleDataset",
    "Step",
    "final_answer",
    "load_records",
    "question_text",
    "target_text",
]

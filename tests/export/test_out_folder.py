"""What an export leaves behind when it works and when it cannot: shards, locks, full disks, pins."""

import json
import resource

import pytest
import torch
from filelock import FileLock
from huggingface_hub import ModelCard
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import CheckpointError, ConfigError, ExportError, InUseError
from lynx_moe.export.base_pin import refuse_another_base
from lynx_moe.export.plan import plan
from lynx_moe.export.push import push
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of, logits
from tests.tiny import tiny_llava


def test_large_weights_become_shards_with_an_index_and_the_plan_knew_their_size(tmp_path, quick_check):
    vlm, inputs = tiny_llava()
    model = adapted(vlm)
    report = export_of(model, inputs, tmp_path / "out", route="code", max_shard_size="100KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = {tmp_path / "out" / name for name in index["weight_map"].values()}
    assert len(shards) > 2 and report["weights_bytes"] == index["metadata"]["total_size"]
    assert report["better"]["native"].startswith("possible")
    header = ModelCard.load(tmp_path / "out" / "README.md").data
    assert header.pipeline_tag == "image-text-to-text" and header.library_name == "transformers"


def test_folder_in_use_is_refused_and_left_alone(tmp_path):
    vlm, inputs = tiny_llava()
    with FileLock(tmp_path / ".out.lock"), pytest.raises(InUseError, match="another process"):
        export_of(adapted(vlm), inputs, tmp_path / "out", route="code")
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_nothing(tmp_path):
    vlm, inputs = tiny_llava()
    model = adapted(vlm)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ExportError) as full:
            export_of(model, inputs, tmp_path / "deep" / "out", route="code")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.why == "files may not grow as large"
    assert not any(tmp_path.iterdir())


def test_tensors_that_the_class_ties_and_the_base_does_not_are_refused_before_anything_is_written():
    vlm, _ = tiny_llava(tie_word_embeddings=True)
    vlm.lm_head.weight = torch.nn.Parameter(vlm.lm_head.weight * 2, requires_grad=False)
    model = adapted(vlm)
    with pytest.raises(ExportError, match="ties it to"):
        plan(model, "code")
    chosen = plan(model)
    assert chosen.route == "adapter" and "ties it to" in chosen.better["code"]


def test_adapter_knows_its_base_by_the_files_of_its_weights(tmp_path):
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base").requires_grad_(False)
    model = adapted(base)
    export_of(model, inputs, tmp_path / "out", route="adapter")
    pinned = json.loads((tmp_path / "out" / "lynx_base.json").read_text())
    assert list(pinned["files"]) == ["model.safetensors"]
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    assert refuse_another_base(tmp_path / "out", again), "another number type of the same files"
    with torch.no_grad():
        vlm.lm_head.weight[0, 0] += 1
    vlm.save_pretrained(tmp_path / "other")
    other = AutoModelForImageTextToText.from_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is another base"):
        refuse_another_base(tmp_path / "out", other)
    assert logits(model, inputs).isfinite().all()


def test_no_name_of_a_repository_is_refused_before_any_upload(tmp_path):
    with pytest.raises(ConfigError, match="no repository name"):
        push(tmp_path, "a/b/c")

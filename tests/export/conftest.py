"""Quick exports: the comparison after writing runs in this process."""

import pytest
import transformers.dynamic_module_utils as modules

import lynx_moe.export.run as run
from tests.export.exporting import compare_in_this_process


@pytest.fixture
def quick_check(monkeypatch, tmp_path):
    """Exports are compared without a fresh process, and their code is cached nowhere but in the test's folder."""
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(run, "check_in_fresh_process", compare_in_this_process)

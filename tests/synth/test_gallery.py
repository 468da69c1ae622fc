"""The page of tasks shows every task and is what the code says."""

from pathlib import Path

from synth.languages import LANGUAGES, load_pack
from synth.tasks import TASKS
from synth.tasks.gallery import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs/tasks.md"


def test_the_page_is_up_to_date():
    fresh = markdown()
    assert PAGE.read_text(encoding="utf-8") == fresh, (
        'python -c "from synth.tasks.gallery import markdown; print(markdown(), end=str())" > docs/tasks.md'
    )
    for name, task in TASKS.items():
        section = fresh.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert all(f"- {language}: **" in section for language in LANGUAGES if name in load_pack(language).tasks)
        assert f"| [{name}](#{name}) | {task.kind} |" in fresh

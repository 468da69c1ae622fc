"""What README and docs show works: Python runs, shell parses and names commands, keys and files that exist."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lynx_moe.cli import build_parser
from lynx_moe.training.command import settings_from
from synth.__main__ import settings_from as synth_settings_from
from synth.commands import COMMANDS as SYNTH_COMMANDS
from synth.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"bash", "python", "text", "toml"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text[: m.start()].count("\n") + 2, m[1], m[2]) for m in FENCE.finditer(text)]


ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python"]
BASH = [block for block in ALL if block.language == "bash"]


def commands(code: str) -> list[list[str]]:
    """The words of every command of a shell block, without leading variable assignments."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        if words:
            found.append(words)
    return found


COMMANDS = [pytest.param(words, id=f"{block}: {' '.join(words)}") for block in BASH for words in commands(block.code)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_says_its_language(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page)), "an unclosed or indented fence"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Compiled under the page's own name and line, so that a traceback points into the page.
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    known = dict(TASKS)
    try:
        exec(code, {"__name__": "__main__"})
    finally:  # a page shows how a task is added; the tests that come after must not meet it
        TASKS.clear()
        TASKS.update(known)


@pytest.mark.parametrize("block", BASH, ids=str)
def test_bash_block_parses(block):
    done = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", COMMANDS)
def test_command_exists_and_takes_these_arguments(words):
    name, *rest = words[1:] if words[0] == "srun" else words  # Slurm's own "run this on every node"
    name = Path(name).name
    if name == "lynx-moe":
        build_parser().parse_args(rest)
    elif name == "torchrun":
        check_python(rest[rest.index("train.py") :])
    elif name in ("python", "python3"):
        check_python(rest)
    elif name == "pip":
        check_pip(rest)
    elif name == "ruff":
        assert rest[0] in ("check", "format")
    elif name == "lmms_eval":
        assert rest[:2] == ["--model", "lynx_moe"] and rest[2] == "--model_args" and "pretrained=" in rest[3]
    elif name == "pytest":
        assert all(word.startswith("-") or (ROOT / word).exists() or word.isdigit() for word in rest), rest
    else:
        raise AssertionError(f"no check knows the command {name!r}: add one here, or leave it out of the docs")


def check_python(rest: list[str]) -> None:
    if rest[0] == "train.py":
        overrides = [word for word in rest[1:] if word not in ("-m", "--help")]
        if "-m" in rest:  # a sweep: its first combination
            overrides = [re.sub(r"^([^=\[]+)=([^\[,]+),.*$", r"\1=\2", word) for word in overrides]
        settings_from(ROOT / "conf", "train", overrides)
    elif rest[:2] == ["-m", "synth"] and rest[2:] and rest[2] in SYNTH_COMMANDS:
        SYNTH_COMMANDS[rest[2]].parser(rest[2]).parse_args(rest[3:])
    elif rest[:2] == ["-m", "synth"]:
        synth_settings_from([word for word in rest[2:] if word != "--help"]).check()
    elif rest[:2] == ["-m", "venv"]:
        assert len(rest) == 3
    else:
        assert rest[0] == "-m" and (ROOT / f"{rest[1].replace('.', '/')}.py").is_file(), rest


def check_pip(rest: list[str]) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert rest[0] == "install"
    for name in re.findall(r"\.\[([\w,]+)\]", " ".join(rest)):
        assert set(name.split(",")) <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("heading", ["## Run it", "## Test it"])
def test_readme_has_exactly_one_shell_block_to_paste(heading):
    sections = re.split(r"^(?=## )", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)
    (section,) = [part for part in sections if part.startswith(heading + "\n")]
    assert [m[1] for m in FENCE.finditer(section)].count("bash") == 1


def test_ci_runs_the_readmes_test_block_word_for_word(tmp_path):
    """The extraction in .ci/run, on a README whose block only leaves a mark, and with text that could mislead it."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(script)
    fence = "```"
    page = ["# x", "## Run it", f"{fence}bash", "touch wrong", fence, "## Test it", "words", f"{fence}bash"]
    page += ["# a comment, not a heading", "touch right", "false || touch also", fence, "## Then", f"{fence}bash"]
    page += ["touch wrong", fence]
    (tmp_path / "README.md").write_text("\n".join(page) + "\n")
    done = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [".ci", "README.md", "also", "right"]


def test_ci_fails_when_a_command_of_the_block_fails(tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    (tmp_path / "README.md").write_text("## Test it\n```bash\nfalse\ntrue\n```\n")
    assert subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, check=False).returncode != 0


def test_help_of_every_command_works():
    done = subprocess.run([sys.executable, "-m", "lynx_moe.cli", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "quickstart" in done.stdout

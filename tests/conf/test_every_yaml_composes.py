"""No YAML file may rot: each composes into checked settings, and opens with what it is for and how to use it."""

import re
import shlex
from pathlib import Path

import pytest

from lynx_moe.errors import ConfigError
from lynx_moe.families.dialects import DIALECTS
from lynx_moe.objectives import OBJECTIVES
from lynx_moe.training import run
from lynx_moe.training.command import settings_from
from lynx_moe.training.heads import set_but_off
from lynx_moe.training.settings import Settings, describe
from tests.objectives.teachers.tiny_teachers import dinov2, made

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("model", "quant", "adapter", "data", "trainer", "sharding", "objective", "experiment", "debug")
OPTIONS = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
EXTRAS = sorted((CONF / "objective/extra").glob("*.yaml"))
NEEDS = {"model/path": ["model.path=somewhere"], "data/folder": ["data.folder=somewhere"]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of data that the first tiny run makes and all others take."""
    return tmp_path_factory.mktemp("records")


def option(path: Path) -> str:
    return path.relative_to(CONF).with_suffix("").as_posix()


def compose(*overrides: str) -> Settings:
    return settings_from(CONF, "train", overrides)


@pytest.mark.parametrize("path", OPTIONS, ids=option)
def test_option_composes(path):
    group, name = option(path).split("/")
    assert isinstance(compose(f"{group}={name}", *NEEDS.get(option(path), [])), Settings)


@pytest.mark.parametrize("path", EXTRAS, ids=option)
@pytest.mark.parametrize("main", ["grounding", "retention", "stepwise"])
def test_an_extra_objective_goes_with_each_main_one_and_switches_on_itself_alone(path, main):
    plain, with_it = (compose(f"objective={main}", *more) for more in ([], [f"+objective/extra={path.stem}"]))
    assert getattr(with_it.objective, path.stem).weight > 0
    setattr(with_it.objective, path.stem, getattr(plain.objective, path.stem))
    assert with_it == plain and not any(getattr(plain.objective, each.stem).weight for each in EXTRAS)


def test_several_extra_objectives_at_once():
    both = compose(f"+objective/extra=[{','.join(each.stem for each in EXTRAS)}]")
    assert all(getattr(both.objective, each.stem).weight > 0 for each in EXTRAS)


def test_every_objective_beside_the_answer_has_its_yaml():
    assert [each.stem for each in EXTRAS] == OBJECTIVES.names()


@pytest.mark.parametrize("path", [CONF / "train.yaml", *OPTIONS, *EXTRAS], ids=lambda p: p.relative_to(CONF).as_posix())
def test_file_opens_with_its_purpose_and_a_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines[: next(i for i, x in enumerate(lines) if not x.startswith("#"))]]
    assert len(head) >= 2 and any("python train.py" in line for line in head)


@pytest.mark.parametrize("path", [CONF / "train.yaml", *OPTIONS, *EXTRAS], ids=lambda p: p.relative_to(CONF).as_posix())
def test_commands_in_the_head_compose(path):
    for command in re.findall(r"^#.*?python train\.py(.*)$", path.read_text(encoding="utf-8"), flags=re.M):
        if "--help" in command or " -m " in command:
            continue
        compose(*shlex.split(command))


@pytest.mark.parametrize("path", [*OPTIONS, *EXTRAS], ids=option)
def test_file_holds_no_python_path(path):
    assert "_target_" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=option)
def test_a_base_names_a_dialect_that_there_is(path):
    settings = compose(f"model={path.stem}", *NEEDS.get(option(path), []))
    assert settings.model.dialect in DIALECTS.names() and settings.model.path


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=option)
def test_every_experiment_runs_one_step(path, shared, tmp_path):
    asked = [f"experiment={path.stem}", "debug=tiny", "trainer.max_steps=1", "trainer.progress=false"]
    settings = compose(*asked, f"output_dir={tmp_path}", f"data.folder={shared}")
    if settings.objective.distil.weight:  # its teacher is on the Hub
        settings.objective.distil.cache_dir = str(tmp_path / "teachers")
        settings.objective.distil.low_teacher.path = made(tmp_path / "teacher", dinov2)
    assert run(settings)["train"]["steps"] == 1


def test_settings_of_an_objective_that_is_off_are_noticed():
    assert set_but_off(compose()) == set_but_off(compose("experiment=prompts", "objective.prompts.weight=0")) == []
    assert set_but_off(compose("+objective/extra=regions", "objective.regions.l1=0.5")) == []
    assert set_but_off(compose("objective.regions.l1=0.5")) == ["regions"]


def test_an_experiment_takes_data_that_are_there():
    assert compose("experiment=masks", "data=folder", "data.folder=/mine", "data.make=null").data.make is None


def test_a_second_choice_of_extras_is_refused_in_words_of_the_command_line():
    with pytest.raises(ConfigError, match="objective/extra is given a second time"):
        compose("experiment=regions", "+objective/extra=contrast")


def test_every_group_folder_is_in_the_defaults_list():
    listed = re.findall(r"^  - (\w+): ", (CONF / "train.yaml").read_text(encoding="utf-8"), flags=re.M)
    folders = {path.parent.name for path in CONF.glob("*/*.yaml")}
    assert folders <= set(listed)


def test_training_alone_uses_a_base_and_data_that_need_no_network():
    settings = compose()
    assert settings.model.path.startswith("pkg://") and settings.data.make["train"]


def test_paper_experiment_is_the_papers_method():
    paper = compose("experiment=paper")
    assert (paper.adapter.mix, paper.adapter.num_experts, paper.adapter.layers) == ("convex", 2, "every_other")
    assert paper.adapter.gate_sparsity == paper.objective.retention_kl == 0.0 and paper.model.dialect == "percent"
    assert paper.objective.stepwise == "faithful"


def test_command_line_wins_over_every_file():
    settings = compose("experiment=paper", "debug=tiny", "trainer.max_steps=7", "adapter.num_experts=3")
    assert settings.trainer.max_steps == 7 and settings.adapter.num_experts == 3


MISSPELT = {
    "adapter.num_expert=3": "adapter.num_experts",
    "+adapter.num_expert=3": "adapter.num_experts",
    "trainer.learning_rat=1": "trainer.learning_rate",
    "adapter=lynks": "adapter=lynx",
    "sed=1": "seed",
    "adapter.mix=addtive": "additive",
}


@pytest.mark.parametrize(("override", "nearest"), MISSPELT.items())
def test_misspelling_is_refused_and_the_nearest_name_offered(override, nearest):
    with pytest.raises(ConfigError) as caught:
        compose(override)
    assert nearest in caught.value.fix


IMPOSSIBLE = ["trainer.max_steps=many", "trainer.warmup=1.5", "trainer.batch_size=0", "seed=null", "data.make=["]


@pytest.mark.parametrize("override", IMPOSSIBLE)
def test_value_that_cannot_be_is_refused(override):
    with pytest.raises(ConfigError):
        compose(override)


def test_missing_value_is_named():
    with pytest.raises(ConfigError, match="model.path is not set"):
        compose("model=path")


def test_bare_on_is_explained_as_yaml_reads_it(tmp_path):
    for source in CONF.rglob("*.yaml"):
        copy = tmp_path / source.relative_to(CONF)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text(encoding="utf-8"))
    (tmp_path / "adapter/lynx.yaml").write_text("prompt_gate: on\n")
    with pytest.raises(ConfigError, match="adapter.prompt_gate") as caught:
        settings_from(tmp_path, "train")
    assert "quotes" in caught.value.fix


def test_every_setting_has_a_help_sentence():
    for name, _, _, text in describe():
        assert len(text) > 10, name

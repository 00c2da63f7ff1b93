"""The config file: what is refused, with which words, and what each step gets of it."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format, struct_pb2

from calltune.errors import ConfigError
from calltune.settings import ModelConfig
from components.evaluate.config import EvaluateConfig
from components.export.config import ExportConfig
from components.format.config import FormatConfig
from components.gate.config import GateConfig
from components.ingest.config import IngestConfig
from components.look.config import LookConfig
from components.notify.config import NotifyConfig
from components.promote.config import PromoteConfig
from components.report.config import ReportConfig
from components.train.config import TrainConfig
from pipelines.config import MAX_INTEGER, RunConfig, absolute, load
from pipelines.finetune import STEPS

REPO = Path(__file__).parents[2]
RECIPES = sorted((REPO / "pipelines" / "recipes").rglob("*.yaml"))
SMALL = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": "rows.jsonl"}}
CONFIGS = {
    "look": LookConfig,
    "ingest": IngestConfig,
    "format": FormatConfig,
    "train": TrainConfig,
    "export": ExportConfig,
    "evaluate": EvaluateConfig,
    "gate": GateConfig,
    "promote": PromoteConfig,
    "report": ReportConfig,
    "notify": NotifyConfig,
}


@pytest.fixture
def written(tmp_path):
    """Write a config file: the smallest one, with sections put over it."""

    def write(**sections):
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump({**SMALL, **sections}), encoding="utf-8")
        return file

    return write


def through_kfp(value):
    """What a dict parameter is after its way through KFP: a protobuf Struct, whose numbers are all doubles."""
    struct = struct_pb2.Struct()
    json_format.ParseDict(value, struct)
    return json_format.MessageToDict(struct)


def has_null(value):
    if isinstance(value, dict):
        return any(map(has_null, value.values()))
    if isinstance(value, list):
        return any(map(has_null, value))
    return value is None


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_names_files_that_exist(recipe, monkeypatch):
    monkeypatch.chdir(REPO)
    config = load(recipe)
    for path in (config.ingest.source, config.ingest.tools):
        assert not path or "://" in path or (REPO / path).is_file()


def test_there_are_recipes():
    assert "helpdesk" in {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_steps_settings_survive_the_way_through_kfp(recipe, step):
    sent = load(recipe).for_step(step)
    assert not has_null(sent)
    assert json.loads(json.dumps(sent)) == sent
    received = through_kfp(sent)
    assert received == sent  # 4.0 == 4
    settings = {key: value for key, value in received.items() if not (key == "model" and step in ("format", "train", "export"))}
    if step == "evaluate":
        settings.pop("model")
    CONFIGS[step](**settings)
    if "model" in received:
        ModelConfig(**received["model"])


def test_integers_are_integers_again_in_the_step(written):
    config = load(written(train={"epochs": 7, "learning_rate": 1e-4}))
    received = through_kfp(config.for_step("train"))
    assert isinstance(received["epochs"], float)
    received.pop("model")
    assert TrainConfig(**received) == config.train
    assert type(TrainConfig(**received).epochs) is int


def test_every_step_of_the_dag_has_settings():
    assert set(CONFIGS) == set(STEPS)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trian": {}}, r"run\.yaml: trian: unknown key; did you mean train\?$"),
        ({"train": {"epoch": 3}}, r"train\.epoch: unknown key; did you mean epochs\?$"),
        ({"format": {"split": {"tset": 0.2}}}, r"format\.split\.tset: unknown key; did you mean test\?$"),
        ({"notes": "mine"}, r"notes: unknown key; (did you mean|known are name, model, ingest)"),
        ({"gate": {"thresholds": {"tool_acuracy": 0.8}}}, r"tool_acuracy' is not a metric; the nearest is 'tool_accuracy'"),
        ({"train": {"epochs": "many"}}, r"train\.epochs: input should be a valid integer.*, not 'many'$"),
        ({"train": {"epochs": 0}}, r"train\.epochs: input should be greater than or equal to 1, not 0$"),
        ({"train": {"epochs": 2.5}}, r"train\.epochs: .*integer.*not 2\.5$"),
        ({"train": {"method": "magic"}}, r"train\.method: input should be 'auto', 'full', 'lora' or 'qlora', not 'magic'$"),
        ({"format": {"split": {"test": 0.7, "validation": 0.4}}}, r"leave no row to train on"),
        ({"format": {"split": {"test": 0}}}, r"format\.split\.test is 0: the gate needs held-out questions"),
        ({"name": "My Shop"}, r"name: .*pattern.*not 'My Shop'$"),
        ({"storage": {"uri": "s3:/bucket"}}, r"storage\.uri: .*not 's3:/bucket'$"),
        ({"train": {"learning_rate": float("nan")}}, r"train\.learning_rate"),
        ({"train": {"seed": MAX_INTEGER}}, r"9007199254740992 is too large; integers must be below 2\^53"),
        ({"train": {"epochs": 0, "rank": 0}}, r"train\.rank: .* \(and 1 more\)$"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line_that_names_the_key(written, sections, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(written(**sections))
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("name: shop\nmodel: {base: 'bundled:smollm2-135m'}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: ingest: is required$"):
        load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [shop\n", r"not YAML: .*line 2"),
        (b"- name\n- shop\n", r"must be a mapping of sections"),
        (b"", r"must be a mapping of sections"),
        (b"name: caf\xe9\n", r"cannot be read: .*utf-8"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        load(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file$"):
        load(tmp_path / "nowhere.yaml")


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_set_changes_values_makes_sections_and_reads_yaml(written):
    overrides = [
        "train.epochs=9",
        "gate.thresholds.tool_accuracy=0.9",
        "evaluate.arguments={f.x: ast}",
        "ingest.source=a=b.jsonl",
    ]
    config = load(written(), [*overrides, "train.learning_rate=1e-4"])
    assert config.train.epochs == 9
    assert config.gate.thresholds == {"tool_accuracy": 0.9}
    assert config.evaluate.arguments == {"f.x": "ast"}
    assert config.ingest.source == "a=b.jsonl"
    assert config.train.learning_rate == 1e-4


def test_the_last_set_wins(written):
    assert load(written(), ["train.epochs=2", "train.epochs=3"]).train.epochs == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", r"--set train\.epochs: must be key=value, for example"),
        ("=3", r"--set =3: must be key=value"),
        ("name.first=x", r"--set name\.first=x: name is not a section"),
        ("train.epochs=[1", r"--set train\.epochs=\[1: the value is not YAML"),
        ("train.epochs=lots", r"train\.epochs: .*not 'lots'"),
        ("train.epocs=3", r"train\.epocs: unknown key; did you mean epochs\?"),
    ],
)
def test_a_wrong_set_is_refused(written, override, message):
    with pytest.raises(ConfigError, match=message):
        load(written(), [override])


def test_the_hash_covers_what_the_result_depends_on_and_not_where_it_is_kept(written):
    plain = load(written()).sha256
    assert load(written(), ["train.seed=1"]).sha256 != plain
    assert load(written(), ["storage.uri=s3://models", "resources.train.gpu=2"]).sha256 == plain


def test_a_config_cannot_be_changed(written):
    with pytest.raises(ValueError, match="frozen"):
        load(written()).train.epochs = 3


def test_local_paths_become_absolute_and_addresses_stay(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    config = absolute(load(written(), ["ingest.tools=tools.py", "model.base=base"]))
    assert config.ingest.source == str(tmp_path / "rows.jsonl")
    assert config.ingest.tools == str(tmp_path / "tools.py")
    assert config.model.base == str(tmp_path / "base")
    far = absolute(load(written(), ["ingest.source=s3://bucket/rows"]))
    assert (far.ingest.source, far.ingest.tools, far.model.base) == ("s3://bucket/rows", "", "bundled:smollm2-135m")
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config

"""The config file: what is refused, with which words, and what each step gets of it."""

import ast
import json
from pathlib import Path
from typing import get_args

import pytest
import yaml
from google.protobuf import json_format, struct_pb2

from calltune.errors import ConfigError
from calltune.settings import ModelConfig, Settings
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
from pipelines.config import MAX_INTEGER, RunConfig, absolute, load, require_one_store
from pipelines.finetune import STEPS

REPO = Path(__file__).parents[2]
RECIPES = sorted((REPO / "pipelines" / "recipes").rglob("*.yaml"))
SMALL = {"name": "shop", "model": {"base": "bundled:smollm2-135m"}, "ingest": {"source": "rows.jsonl"}}
STORAGE = r"storage\.uri: must be embedded, s3://bucket/prefix, or a folder whose path begins with / or \./"
MAIL = {"host": "smtp.example.com", "sender": "calltune@example.com", "to": ["team@example.com"]}
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


def test_another_price_is_another_report_and_nothing_else(written):
    free, dear = load(written()), load(written(train={"price_per_hour": 2.5}))
    assert [step for step in STEPS if free.for_step(step) != dear.for_step(step)] == ["look", "report"], (
        "and look is never cached"
    )
    assert dear.for_step("report")["price_per_hour"] == 2.5
    assert free.sha256 == dear.sha256


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
        ({"notes": "mine"}, r"notes: unknown key; known are name, model, ingest"),
        ({"min_questions": 5}, r"min_questions: unknown key; did you mean gate\.min_questions\?$"),
        ({"gate": {"test_source": "a"}}, r"gate\.test_source: unknown key; did you mean format\.split\.test_source\?$"),
        ({"gate": {"thresholds": {"tool_acuracy": 0.8}}}, r"tool_acuracy' is not a metric; the nearest is 'tool_accuracy'"),
        ({"train": {"epochs": "many"}}, r"train\.epochs: must be a whole number, not 'many'$"),
        ({"train": {"epochs": 0}}, r"train\.epochs: must be at least 1, not 0$"),
        ({"train": {"epochs": 2.5}}, r"train\.epochs: must be a whole number, not 2\.5$"),
        ({"train": {"method": "magic"}}, r"train\.method: must be 'auto', 'full', 'lora' or 'qlora', not 'magic'$"),
        ({"format": {"split": {"test": 0.7, "validation": 0.4}}}, r"leave no row to train on"),
        ({"format": {"split": {"test": 0}}}, r"format\.split\.test is 0: the gate needs held-out questions"),
        (
            {"gate": {"thresholds": {"tool_accuracy_rephrased": 0.5}}},
            r"name rephrased in evaluate\.robustness, so that it is measured",
        ),
        (
            {"gate": {"suites": {"general.gsm8k.exact_match": 0.3}}},
            r"gate\.suites: 'general\.gsm8k\.exact_match' is not measured: nothing of evaluate\.general is set$",
        ),
        (
            {"evaluate": {"general": {"tasks": ["gsm8k", "mmlu"]}}, "gate": {"regression": {"general.gsm8.acc": 0.1}}},
            r"gate\.regression: 'general\.gsm8\.acc' is not measured; the nearest that is, is 'general\.gsm8k\.acc'$",
        ),
        (
            {"evaluate": {"general": {"tasks": ["mmlu"]}}, "gate": {"regression": {"general.text_loss": 0.1}}},
            r"'general\.text_loss' is not measured; the nearest that is, is 'general\.mmlu\.acc'$",
        ),
        (
            {"gate": {"regression": {"tool_accuracy": 0.1}}},
            r"gate\.regression\.tool_accuracy: the key must be a suite's measure such as .*, not 'tool_accuracy'$",
        ),
        ({"evaluate": {"general": {"tasks": ["mmlu", "mmlu"]}}}, r"evaluate\.general: tasks names one of them twice"),
        ({"evaluate": {"general": {"tasks": ["a b"]}}}, r"evaluate\.general\.tasks\.0: must be the name of an lm-eval task"),
        ({"evaluate": {"general": {"tasks_folder": "t"}}}, r"evaluate\.general: tasks_folder is set, and tasks names none of it"),
        (
            {"evaluate": {"general": {"text": "s3://data/text.txt"}}},
            r"evaluate\.general\.text: must be a path on this machine; `submit` brings it into the store, not 's3://data/text",
        ),
        (
            {"evaluate": {"instructions": {"questions": "q.jsonl"}}, "gate": {"suites": {"instructions.win_rate": 0.5}}},
            r"gate\.suites: 'instructions\.win_rate' is not measured; the nearest that is, is 'instructions\.rouge_l'$",
        ),
        (
            {
                "evaluate": {"instructions": {"questions": "q.jsonl", "judge": {"url": "http://judge/v1", "model": "m"}}},
                "gate": {"regression": {"instructions.rouge_l": 0.1}},
            },
            r"gate\.regression: 'instructions\.rouge_l' is not measured; the nearest .* is 'instructions\.judge_agreement'$",
        ),
        (
            {"evaluate": {"instructions": {"judge": {"url": "http://judge/v1", "model": "m"}}}},
            r"evaluate\.instructions: judge is set, and questions names no file$",
        ),
        ({"evaluate": {"genral": {}}}, r"evaluate\.genral: unknown key; did you mean general\?$"),
        ({"evaluate": {"engine": "vlm"}}, r"evaluate\.engine.*must be 'auto', 'hf' or 'vllm'"),
        ({"evaluate": {"decoding": "json"}}, r"evaluate\.decoding.*must be 'free' or 'tools'"),
        (
            {"evaluate": {"decoding": "tools"}, "format": {"template": "functiongemma"}},
            r"evaluate\.decoding: tools: the call syntax functiongemma has no grammar, only hermes and json",
        ),
        (
            {"evaluate": {"decoding": "tools"}, "format": {"template": "xlam", "call_syntax": "python"}},
            r"evaluate\.decoding: tools: the call syntax python has no grammar",
        ),
        ({"evaluate": {"robustness": ["rephrased", "rephrased"]}}, r"evaluate\.robustness: .*names one of them twice"),
        (
            {"evaluate": {"robustness": ["louder"]}},
            r"evaluate\.robustness.*must be 'shuffled_tools', 'distractor' or 'rephrased'",
        ),
        ({"name": "My Shop"}, r"name: must be small letters, digits, - and _, .* not 'My Shop'$"),
        ({"name": 7}, r"name: must be text, in quotes, not 7$"),
        ({"storage": {"uri": "s3:/bucket"}}, STORAGE + r", not 's3:/bucket'$"),
        ({"storage": {"uri": "store/models"}}, STORAGE + r", not 'store/models'$"),
        ({"storage": {"endpoint_url": "minio:9000"}}, r"endpoint_url: must be an address that begins with http:// or https://"),
        (
            {"storage": {"endpoint_url": "https://key:sekret@s3"}},
            r"endpoint_url: has a password in it, .*: set AWS_ACCESS_KEY_ID and",
        ),
        (
            {"tracking": {"uri": "http://bob:s3cret@mlflow:5000"}},
            r"tracking\.uri: has a password in it, .*: set MLFLOW_TRACKING_USER",
        ),
        ({"tracking": {"uri": ""}}, r"tracking\.uri: must be embedded, or an MLflow server's address such as .*, not ''$"),
        (
            {"tracking": {"uri": "mlflow"}},
            r"tracking\.uri: must be embedded, or an MLflow server's address such as .*, not 'mlflow'$",
        ),
        ({"promote": {"alias": "previous"}}, r"promote\.alias: must be letters.* neither previous .*, not 'previous'$"),
        ({"promote": {"alias": "Latest"}}, r"promote\.alias: must be letters.*, not 'Latest'$"),
        ({"promote": {"alias": "v2"}}, r"promote\.alias: must be letters.*, not 'v2'$"),
        ({"promote": {"alias": ""}}, r"promote\.alias: must be letters.*, not ''$"),
        (
            {"export": {"formats": []}},
            r"export\.formats: unknown key; known are merge_into, dtype, base_license, data_license, gguf$",
        ),
        ({"notify": {"via": ["sms"]}}, r"notify\.via\.0: must be 'slack', 'webhook' or 'email', not 'sms'$"),
        ({"notify": {"via": ["email"]}}, r"notify: email\.host is empty: mail needs host, sender and to$"),
        (
            {"notify": {"via": ["email"], "email": {**MAIL, "user": "me", "security": "none"}}},
            r"notify: email\.security is none: the password of email\.user would travel in clear text$",
        ),
        (
            {"notify": {"email": {**MAIL, "to": ["team"]}}},
            r"notify\.email\.to\.0: must be an e-mail address such as .*, not 'team'$",
        ),
        (
            {"notify": {"slack": "https://hooks/SECRET"}},
            r"notify\.slack: unknown key; (did you mean \w+\?|known are via, about, email)$",
        ),
        ({"resources": {"train": {"gpus": 1}}}, r"resources\.train\.gpus: unknown key; did you mean gpu\?$"),
        ({"resources": {"trian": {"gpu": 1}}}, r"resources\.trian: unknown key; did you mean train\?$"),
        ({"resources": {"x": {"gpu": 1}}}, r"resources\.x: unknown key; known are ingest, format, train, export, evaluate,"),
        (
            {"resources": {"train": {"tolerations": [{"key": 5}]}}},
            r"resources\.train\.tolerations\.0\.key: must be text, in quotes, not 5$",
        ),
        ({"resources": 3}, r"resources: must be a section of settings, not 3$"),
        ({"train": 3}, r"train: must be a section of settings, not 3$"),
        ({"train": None}, r"train: has no value; give it one, or leave the key out$"),
        (
            {"gate": {"against_champion": {"tool_accuracy": {"test": "better", "magrin": 0.1}}}},
            r"gate\.against_champion\.tool_accuracy\.magrin: unknown key; did you mean margin\?$",
        ),
        ({"train": {"learning_rate": "lots"}}, r"train\.learning_rate: must be 'auto' or a number, not 'lots'$"),
        ({"train": {"learning_rate": -1}}, r"train\.learning_rate: must be 'auto' or above 0, not -1$"),
        ({"train": {"learning_rate": float("nan")}}, r"train\.learning_rate: must be 'auto' or a finite number, not nan$"),
        ({"train": {"learning_rate": "x", "rank": 0}}, r"train\.rank: must be at least 1, not 0 \(and 1 more\)$"),
        (
            {"gate": {"thresholds": {"tool_accuracy": "high"}}},
            r"gate\.thresholds\.tool_accuracy: must be a number, not 'high'$",
        ),
        ({"ingest": {"source": ""}}, r"ingest\.source: must be a text that is not empty, not ''$"),
        ({"ingest": {"source": ["a"]}}, r"ingest\.source: must be text, in quotes, not \['a'\]$"),
        (
            {"ingest": {"source": "a", "more": [{"sauce": "b"}]}},
            r"more\.0\.sauce: unknown key; did you mean source\? \(and 1 more\)$",
        ),
        (
            {"ingest": {"source": "a", "more": [{"source": "b", "weight": 2}]}},
            r"ingest\.more\.0\.weight: must be at most 1, not 2",
        ),
        ({"train": {"epochs": "many " * 40}}, r"train\.epochs: .{,120}…$"),
        ({"train": {"epochs": MAX_INTEGER}}, r"train\.epochs: 9007199254740992 is too large; integers must be below 2\^53"),
        ({"train": {"seed": -1}}, r"train\.seed: must be at least 0, not -1$"),
        ({"train": {"seed": 99999999999}}, r"train\.seed: must be below 4294967296, not 99999999999$"),
        ({"train": {"rank": True}}, r"run\.yaml: train\.rank: must be a number, not true$"),
        ({"format": {"supervise_tools": 1}}, r"run\.yaml: format\.supervise_tools: must be true or false"),
        ({"format": {"supervise_tools": True}}, r"run\.yaml: format\.?.*supervise_tools: only template: xlam prints the tools"),
        (
            {"gate": {"over_baseline": {"tool_accuracy": False}}},
            r"gate\.over_baseline\.tool_accuracy: must be a number, not false$",
        ),
        ({"gate": {"thresholds": {1: 0.5}}}, r"gate\.thresholds\.1: the key must be text, in quotes, not 1$"),
        (
            {"evaluate": {"arguments": {"a.b": "bogus"}}},
            r"evaluate\.arguments\.a\.b: must be ast, any, or f1>=x with 0 < x <= 1, not 'bogus'$",
        ),
        ({"evaluate": {"arguments": {"a.b": "f1>=0.0"}}}, r"must be ast, any, or f1>=x with 0 < x <= 1, not 'f1>=0\.0'$"),
        ({"evaluate": {"arguments": {"a": "ast"}}}, r"evaluate\.arguments\.a: the key must be tool\.argument, not 'a'$"),
        ({"train": {"epochs": 0, "rank": 0}}, r"train\.rank: .* \(and 1 more\)$"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line_that_names_the_key(written, sections, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(written(**sections))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tracking", ["embedded", "http://mlflow:5000", "https://mlflow/x", "sqlite:////data/mlflow.db"])
@pytest.mark.parametrize("storage", ["embedded", "s3://models", "s3://models/shop", "/data", "./data"])
def test_places_that_can_be_used_are_taken(written, tracking, storage):
    config = load(written(tracking={"uri": tracking}, storage={"uri": storage}, promote={"alias": "versus_previous"}))
    assert (config.tracking.uri, config.storage.uri, config.promote.alias) == (tracking, storage, "versus_previous")


def test_the_alias_has_one_default(written):
    assert load(written()).promote.alias == PromoteConfig(name="shop").alias == "champion"
    assert "alias" not in PromoteConfig.__annotations__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  epochs: 2\n  rank: 4\n  epochs: 3\n", r"run\.yaml: epochs: is there twice, in lines 5 and 7; keep one$"),
        ("train: {epochs: 2}\ngate: {}\ntrain: {rank: 4}\n", r"run\.yaml: train: is there twice, in lines 4 and 6; keep one$"),
        ("train: {epochs: 2, 'epochs': 3}\n", r"run\.yaml: epochs: is there twice, in lines 4 and 4; keep one$"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_lines(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text("name: shop\nmodel: {base: x}\ningest: {source: y}\n" + text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_anchors_and_merges_are_fine_and_the_mappings_own_key_wins(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "name: shop\nmodel: {base: x}\ningest: {source: y}\nresources:\n"
        "  train: &large {gpu: 1, memory_gib: 16}\n  export: &larger\n    <<: *large\n    memory_gib: 32\n"
        "  evaluate:\n    <<: *larger\n    gpu: 2\n  gate: *large\n"
    )
    resources = load(file).resources
    assert (resources["export"].gpu, resources["export"].memory_gib) == (1, 32)
    assert (resources["evaluate"].gpu, resources["evaluate"].memory_gib) == (2, 32)
    assert resources["gate"] == resources["train"]


@pytest.mark.parametrize(
    "section",
    [
        {"ingest": {"source": "s3://data/rows"}},
        {"model": {"base": "s3://data/model"}},
        {"retrain": {"drift": {"questions": "s3://data/asked"}}},
    ],
    ids=["rows", "model", "questions"],
)
def test_what_is_in_s3_needs_a_store_that_the_run_can_reach(written, section):
    with pytest.raises(ConfigError, match=r"s3://data/\w+ cannot be reached from a run with storage\.uri: embedded"):
        require_one_store(load(written(**section)))
    require_one_store(load(written(**section, storage={"uri": "s3://data"})))
    require_one_store(load(written()))


def test_a_missing_key_is_named(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("name: shop\nmodel: {base: 'bundled:smollm2-135m'}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: ingest: is required$"):
        load(file)


def test_a_section_that_is_misspelt_is_named_before_what_is_missing_by_it(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("name: shop\nmodel: {base: 'bundled:smollm2-135m'}\ninjest: {source: a}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: injest: unknown key; did you mean ingest\? \(and 1 more\)$"):
        load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [shop\n", r"not YAML: .*line 2"),
        (b"- name\n- shop\n", r"must be a mapping of sections"),
        (
            b"name: shop\nmodel: {base: x}\ningest: {source: y}\n1: 3\n",
            r"run\.yaml: 1: unknown key; known are name, model, ingest",
        ),
        (b"name: " + b"[" * 3000, r"run\.yaml: is nested too deeply"),
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
        ("train.epochs=lots", r"^--set: train\.epochs: .*not 'lots'"),
        ("train={epochs: 1, epochs: 2}", r"--set train=\{.*\}: epochs: is there twice"),
        ("name=" + "[" * 3000, r"is nested too deeply"),
        ("ingst.dialect=openai", r"^--set: ingst: unknown key; did you mean ingest\?"),
        ("format.split.test=0", r"^--set: format\.split\.test is 0: the gate needs held-out questions$"),
        ("format.template=nope.jinja", r"^--set: format\.template: 'nope\.jinja' cannot be read: No such file or directory$"),
        ("train.epocs=3", r"^--set: train\.epocs: unknown key; did you mean epochs\?"),
    ],
)
def test_a_wrong_set_is_refused(written, override, message):
    with pytest.raises(ConfigError, match=message):
        load(written(), [override])


def test_the_hash_covers_what_the_result_depends_on_and_not_where_it_is_kept(written):
    plain = load(written()).sha256
    assert load(written(), ["train.seed=1"]).sha256 != plain
    assert load(written(), ["storage.uri=s3://models", "resources.train.gpu=2"]).sha256 == plain


def test_the_hash_is_the_same_wherever_the_files_lie(tmp_path, monkeypatch):
    hashes = set()
    for place in ("here", "somewhere/else"):
        folder = tmp_path / place
        (folder / "base").mkdir(parents=True)
        more = [{"source": "data/more.jsonl", "weight": 0.5}, {"source": "hf://datasets/acme/calls"}]
        ingest = {"source": "data/rows.jsonl", "tools": "../tools.py", "more": more}
        text = {"name": "shop", "model": {"base": "base"}, "ingest": ingest}
        (folder / "run.yaml").write_text(yaml.safe_dump(text))
        monkeypatch.chdir(folder)
        config = load("run.yaml")
        # What a run's pipeline gets: absolute, written as JSON and read again.
        run = RunConfig.model_validate(json.loads(json.dumps(absolute(config).model_dump(mode="json"))))
        assert run.ingest.source == str(folder / "data" / "rows.jsonl") and run.model.base == str(folder / "base")
        assert [part.source for part in run.ingest.more] == [str(folder / "data" / "more.jsonl"), "hf://datasets/acme/calls"]
        hashes |= {config.sha256, run.sha256, run.for_step("report")["config_sha256"]}
    assert len(hashes) == 1


def test_the_hash_tells_other_data_and_models_apart(written):
    names = [
        "ingest.source=other.jsonl",
        "ingest.source=s3://a/rows.jsonl",
        "ingest.source=s3://b/rows.jsonl",
        "model.base=org/model",
        "ingest.more=[{source: more.jsonl}]",
        "ingest.more=[{source: more.jsonl, weight: 0.5}]",
    ]
    assert len({load(written(), [name]).sha256 for name in [*names, "name=shop"]}) == 7


def reads_of(tree):
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def all_settings(section):
    for name, field in section.model_fields.items():
        yield f"{section.__name__}.{name}"
        for inner in [field.annotation, *get_args(field.annotation)]:
            if isinstance(inner, type) and issubclass(inner, Settings):
                yield from all_settings(inner)


def test_every_setting_is_read_by_some_code():
    files = [path for part in ("calltune", "components", "pipelines") for path in (REPO / part).rglob("*.py")]
    read = set().union(*(reads_of(ast.parse(path.read_text(encoding="utf-8"))) for path in files))
    found = {setting for section in (RunConfig, *CONFIGS.values()) for setting in all_settings(section)}
    assert len(found) > 50
    assert {setting for setting in found if setting.split(".")[1] not in read} == set()


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
    asked = absolute(load(written(), ["retrain.drift.questions=asked"])).retrain.drift
    assert asked.questions == str(tmp_path / "asked")
    far = absolute(load(written(), ["ingest.source=s3://bucket/rows", "retrain.drift.questions=s3://bucket/asked"]))
    assert far.retrain.drift.questions == "s3://bucket/asked"
    assert (far.ingest.source, far.ingest.tools, far.model.base) == ("s3://bucket/rows", "", "bundled:smollm2-135m")
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config

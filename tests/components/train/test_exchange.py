"""What goes through the store between the train step and the workers of its job: a real S3 server."""

import signal

import pytest

from calltune import storage
from calltune.errors import ConfigError, DataError, UserError
from calltune.settings import ModelConfig
from components.train import worker
from components.train.config import TrainConfig
from components.train.exchange import Exchange, Work, key_of

MODEL = ModelConfig(base="Qwen/Qwen3-0.6B", revision="0" * 40)


def work(**settings):
    return Work(MODEL, TrainConfig(**settings), "an image", '{"uri": "s3://…", "digest": "d"}')


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"rows to train on" * 1000)
    (folder / "validation.parquet").write_bytes(b"rows to validate with")
    (folder / "test.jsonl").write_text("no worker needs it")
    return folder


@pytest.fixture
def results(tmp_path):
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    (adapter / "more").mkdir(parents=True)
    (adapter / "more" / "weights.safetensors").write_bytes(b"w" * 20_000_000)  # in several parts
    (adapter / "method.json").write_text('{"method": "lora"}')
    out.mkdir()
    (out / "metrics.json").write_text('{"steps": 3}')
    (out / "loss.csv").write_text("step,epoch\n")
    (out / "best.safetensors").write_text("nobody needs it")
    return adapter, out


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_worker_gets_the_work_and_the_step_gets_the_result(s3, rows, results, tmp_path):
    step, worker = (Exchange(storage.of_run(), "k") for _ in range(2))
    step.put_work(rows, work(method="lora", checkpoint_minutes=3))
    assert worker.fetch_work(tmp_path / "there") == work(method="lora", checkpoint_minutes=3)
    assert files(tmp_path / "there") == {name: data for name, data in files(rows).items() if name != "test.jsonl"}
    worker.put_result(*results)
    step.fetch_result(tmp_path / "back", tmp_path / "back-out")
    assert files(tmp_path / "back") == files(results[0])
    assert files(tmp_path / "back-out").keys() == {"metrics.json", "loss.csv"}
    step.clear()
    assert s3.list("exchange") == []


def test_what_is_not_whole_or_not_what_was_put_there_is_refused(s3, rows, results, tmp_path):
    exchange = Exchange(s3, "k")
    with pytest.raises(UserError, match=r"exchange/k/work.json: there is none"):
        exchange.fetch_work(tmp_path / "there")
    exchange.put_work(rows, work())
    s3.put("exchange/k/rows/train.parquet", b"other rows")
    with pytest.raises(DataError, match=r"exchange/k/rows/train.parquet is not the file that was put there"):
        exchange.fetch_work(tmp_path / "there")
    exchange.put_result(*results)
    s3.delete("exchange/k/result.json")
    with pytest.raises(UserError, match=r"result.json: there is none"):
        exchange.fetch_result(tmp_path / "back", tmp_path / "out")


def test_a_failure_is_the_workers_sentence(s3):
    exchange = Exchange(s3, "k")
    assert exchange.failure() is None
    exchange.put_failure({"step": "train", "code": 2, "message": "train.parquet: no rows to train on"})
    assert exchange.failure() == "train.parquet: no rows to train on"


def test_the_key_is_of_what_the_weights_depend_on(rows):
    key = key_of(rows, work())
    assert key == key_of(rows, work(checkpoint_minutes=1, price_per_hour=3)) and len(key) == 20
    others = [work(epochs=1), Work(MODEL, TrainConfig(), "another image", ""), Work(MODEL, TrainConfig(), "an image", "")]
    assert len({key, *(key_of(rows, other) for other in others)}) == 4
    (rows / "validation.parquet").write_bytes(b"other rows")
    assert key_of(rows, work()) != key


def test_a_worker_leaves_no_word_of_a_store_that_was_away_and_is_back(s3, server, monkeypatch, capfd):
    """Or a training of hours, whose result could not be brought just then, would be over for good."""

    def bring(*_):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        try:
            with storage.hurried():
                storage.of_run().list("exchange")
        finally:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server["AWS_ENDPOINT_URL_S3"])

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker, "work", bring)
    assert worker.main("k") == 1
    assert "127.0.0.1:9" in capfd.readouterr().err and Exchange(storage.of_run(), "k").failure() is None

    def wrong(*_):
        raise ConfigError("train.rank: is another one")

    monkeypatch.setattr(worker, "work", wrong)
    assert worker.main("k") == 2
    assert Exchange(storage.of_run(), "k").failure() == "train.rank: is another one"

"""Training that is cut off and started again comes to the same bits; what is damaged is passed over; the newest are kept."""

import json
import os
import random
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

from calltune import storage
from calltune.errors import Stopped, UserError
from components.train import checkpoints as module
from components.train.checkpoints import Checkpoints
from components.train.config import TrainConfig
from components.train.keeper import Diverged
from components.train.step import train
from components.train.trainer import TreeTrainer

EVERY_STEP = 1e-9
WALL = {"seconds", "tokens_per_s", "supervised_tokens_per_s", "mfu", "device_tflops", "peak_rss_mib"}
CASES = {
    "full": dict(method="full", learning_rate=2e-3, schedule="cosine", epochs=3),
    "lora": dict(method="lora", learning_rate=1e-2, schedule="constant", dropout=0.2, epochs=4, max_steps=8),
    "qlora": dict(method="qlora", learning_rate=1e-2, dropout=0.2, epochs=3, keep="last"),
    "early stop": dict(method="lora", learning_rate=0.1, epochs=6, patience=1, optimiser="adamw_torch_fused"),
}


@pytest.fixture
def trained_on(rows, tiny, tmp_path):
    """A function that trains the tiny model on these rows with the given settings, into `tmp_path / name`."""

    def run(name, **settings):
        settings = {"batch_rows": 4, "precision": "fp32", **settings}
        return train(rows, tiny, TrainConfig(**settings), tmp_path / name / "adapter", tmp_path / name)

    return run


@pytest.fixture
def interrupt(monkeypatch):
    """A function that has something happen before the given forward passes, of training and of validation alike."""
    real = TreeTrainer._summed_loss

    def plan(calls, act):
        seen = {"calls": 0}

        def counted(self, model, p):
            seen["calls"] += 1
            if seen["calls"] in calls:
                act()
            return real(self, model, p)

        monkeypatch.setattr(TreeTrainer, "_summed_loss", counted)
        return seen

    return plan


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise OSError("the machine is gone")


def results(folder, outcome):
    weights = load_file(next((folder / "adapter").glob("*.safetensors")))
    return weights, (folder / "loss.csv").read_text(), {k: v for k, v in vars(outcome).items() if k not in WALL}


def same(one, other):
    assert one[1:] == other[1:]
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())


def notes():
    with open(os.environ["CALLTUNE_EVENTS"], encoding="utf-8") as events:
        return [event["message"] for event in map(json.loads, events) if event["kind"] == "note"]


@pytest.mark.parametrize(
    ("case", "act"), [("full", sigterm), ("lora", crash), ("qlora", sigterm), ("early stop", crash)], ids=list(CASES)
)
def test_cut_off_at_random_moments_it_comes_to_the_same_bits(trained_on, interrupt, tmp_path, case, act):
    settings = CASES[case]
    passes = interrupt([], act)
    whole = results(tmp_path / "whole", trained_on("whole", **settings))
    # With validation, so that some moments are in the middle of an evaluation; the last ones have nothing after them.
    moments = random.Random(case).sample(range(2, passes["calls"]), 3)
    interrupt(moments, act)
    for attempt in range(20):
        try:
            again = trained_on(f"again-{attempt}", **settings, checkpoint_minutes=EVERY_STEP if act is crash else 1000)
        except (Stopped, OSError):
            continue
        break
    assert attempt >= 2, "it was cut off as planned"
    same(results(tmp_path / f"again-{attempt}", again), whole)
    assert sum("goes on from the checkpoint of step" in message for message in notes()) == attempt


def test_it_says_that_it_was_stopped_and_goes_on(trained_on, interrupt):
    interrupt([4], sigterm)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM at step \d of 9: the checkpoint of step \d is in file:.*goes on from"):
        trained_on("out", **CASES["qlora"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    trained_on("out", **{**CASES["qlora"], "learning_rate": 1e-3})
    assert not any("goes on from" in message for message in notes()), "other settings begin anew"


def test_an_evaluation_that_is_cut_off_twice_leaves_the_random_states_as_they_were(trained_on, interrupt, tmp_path):
    whole = results(tmp_path / "whole", trained_on("whole", **CASES["lora"]))
    seen = interrupt([4, 5], sigterm)  # three steps make an epoch
    for attempt in ("first", "second"):
        with pytest.raises(Stopped, match="at step 3 of 8: the checkpoint of step 3 is in"):
            trained_on(attempt, **CASES["lora"])
    assert seen["calls"] == 5
    same(results(tmp_path / "third", trained_on("third", **CASES["lora"])), whole)


def test_the_end_of_a_training_is_not_trained_again(trained_on, interrupt, tmp_path):
    passes = interrupt([], crash)
    settings = {**CASES["early stop"], "checkpoint_minutes": EVERY_STEP}
    first = results(tmp_path / "first", trained_on("first", **settings))
    store = storage.of_run()
    assert [key for key in store.list("checkpoints") if key.endswith(module.FINISHED)]
    before = passes["calls"]
    same(results(tmp_path / "second", trained_on("second", **settings)), first)
    steps_since = passes["calls"] - before
    assert steps_since < before / 2
    trained_on("other", **CASES["qlora"])
    assert store.list("checkpoints") == [], "what has ended is removed by the next training"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "flipped": ("weights.safetensors", flip, "weights.safetensors is not the file"),
    "truncated": ("optimizer.pt", truncate, "optimizer.pt is not the file"),
    "half uploaded": (module.MANIFEST, lambda path: path.unlink(), "its upload was not ended"),
    "manifest cut": (module.MANIFEST, truncate, "its manifest cannot be read"),
    "file missing": ("rng_state.pth", lambda path: path.unlink(), "rng_state.pth is missing"),
}


@pytest.fixture
def kept(tmp_path):
    """The checkpoints of a training, 3 kept, with those of steps 1 to 4 written; and the store."""

    def write(kept, step, best):
        with kept.writing(step) as folder:
            for name in ("weights.safetensors", "optimizer.pt", "rng_state.pth"):
                (folder / name).write_bytes(f"{name} of {step} ".encode() * 50)
            (folder / module.BEST).write_bytes(best)
        assert kept.flush(10)

    store = storage.of_run()
    kept = Checkpoints(store, "key", tmp_path / "local", kept=3)
    for step, best in ((1, b"a"), (2, b"b"), (3, b"b"), (4, b"b")):
        write(kept, step, best)
    kept.write = lambda step, best: write(kept, step, best)
    yield kept
    kept.close()


def names(store):
    return [key.split("/")[2].split("-")[1].lstrip("0") for key in store.list("checkpoints") if key.endswith(module.MANIFEST)]


def test_the_newest_are_kept_with_their_best_weights_and_nothing_else(kept):
    store = kept.store
    assert names(store) == ["2", "3", "4"]
    assert [store.get(key) for key in store.list("checkpoints/key/best")] == [b"b"], "once for three checkpoints"
    assert not list(kept.folder.iterdir())


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(kept, damage, tmp_path):
    file, spoil, said = DAMAGE[damage]
    newest = store_path(kept, next(key for key in kept.store.list(kept.place) if "step-00000004" in key and key.endswith(file)))
    spoil(newest)
    again = Checkpoints(kept.store, "key", tmp_path / "again", kept=3)
    found = again.newest()
    assert again.uploaded == 3 and (found / "optimizer.pt").read_bytes().startswith(b"optimizer.pt of 3")
    assert (found / module.BEST).read_bytes() == b"b"
    assert any(f"{newest.parent.name} is passed over: " in message and said in message for message in notes())
    again.kept = 2
    with again.writing(5) as folder:
        (folder / "weights.safetensors").write_bytes(b"5")
    assert again.flush(10)
    assert names(kept.store) == ["3", "5"], "the damaged one takes no good one's place"
    again.close()


def store_path(kept, key):
    return kept.store.root / key


def test_training_goes_on_while_the_store_is_away_and_the_upload_catches_up(kept, monkeypatch):
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.05)
    folder, away = store_path(kept, kept.place), store_path(kept, "away")
    folder.rename(away)
    folder.write_bytes(b"a file where the folder should be")
    for step in (5, 6, 7):
        with kept.writing(step) as written:
            (written / "weights.safetensors").write_bytes(b"w")
    assert not kept.flush(0.2)
    assert len(list(kept.folder.glob("step-*"))) <= 2, "older ones give way"
    folder.unlink()
    away.rename(folder)
    assert kept.flush(30)
    assert kept.uploaded == 7 and names(kept.store) == ["3", "4", "7"]
    assert any("is not in the store, trying again" in message for message in notes())


def test_a_checkpoint_that_cannot_be_written_is_no_reason_to_stop(kept):
    with kept.writing(5) as folder:
        (folder / "weights.safetensors").write_bytes(b"5")
        raise OSError(28, "No space left on device")
    assert kept.flush(1) and names(kept.store) == ["2", "3", "4"] and not list(kept.folder.iterdir())
    assert any("step 5 cannot be written" in message and "No space left" in message for message in notes())


class Unreadable(storage.Folder):
    """A store whose disk cannot read one file any more, or that is away: as S3 it says so with a UserError."""

    away = False

    def download(self, key, path):
        if "step-00000004" in key and key.endswith("optimizer.pt"):
            raise UserError("InternalError: entry not found: CRC error")
        super().download(key, path)

    def list(self, prefix):
        if self.away:
            raise UserError("Could not connect to the endpoint URL")
        return super().list(prefix)

    def delete(self, key):
        raise UserError("AccessDenied")


def test_a_file_that_the_store_cannot_read_is_damaged_but_a_store_that_is_away_is_not_passed_over(kept, tmp_path, monkeypatch):
    store = Unreadable(kept.store.root)
    again = Checkpoints(store, "key", tmp_path / "again", kept=3)
    again.newest()
    assert again.uploaded == 3
    assert any("is passed over: optimizer.pt cannot be fetched: InternalError" in message for message in notes())
    fetch = store.download
    monkeypatch.setattr(store, "download", lambda *given: setattr(store, "away", True) or fetch(*given))
    with pytest.raises(UserError, match="Could not connect"):
        Checkpoints(store, "key", tmp_path / "again", kept=3).newest()


def test_a_store_that_refuses_to_delete_or_is_away_at_the_end_is_no_reason_to_fail(kept, tmp_path):
    kept.finish()
    store = Unreadable(kept.store.root)
    other = Checkpoints(store, "other", tmp_path / "other", kept=1)
    other.remove_finished()
    for step in (1, 2):
        with other.writing(step) as folder:
            (folder / "weights.safetensors").write_bytes(b"w")
        assert other.flush(10)
    store.away = True
    other.finish()
    assert sum("out of date could not be removed" in message for message in notes()) == 3


def test_an_upload_that_the_end_of_training_overtakes_leaves_nothing_behind(kept, monkeypatch):
    begun, real = threading.Event(), kept.store.upload
    place = f"{kept.place}/step-00000005"

    def slow(path, key):
        real(path, key)
        begun.set()
        kept._closed = True  # as close() says it, meanwhile

    monkeypatch.setattr(kept.store, "upload", slow)
    with kept.writing(5) as folder:
        for name in ("a", "weights.safetensors"):
            (folder / name).write_bytes(b"5")
    assert begun.wait(10) and kept.flush(10)
    assert [key.rpartition("/")[2] for key in kept.store.list("checkpoints") if key.startswith(place)] == ["a"]
    kept.finish()
    assert names(kept.store) == ["4"] and not any(key.startswith(place) for key in kept.store.list("checkpoints"))


def test_a_loss_that_is_no_number_names_its_rows_and_keeps_the_last_good_checkpoint(trained_on):
    with pytest.raises(Diverged, match=r"lower train.learning_rate.*") as raised:
        trained_on("out", method="full", learning_rate=1e30, epochs=3, warmup=0, checkpoint_minutes=EVERY_STEP)
    text = str(raised.value)
    assert (text.count("train-") == 4 and "look at the rows of its batch" in text) or "is not finite after step" in text


def test_an_exploding_loss_ends_training_with_its_rows(trained_on):
    with pytest.raises(Diverged, match=r"the loss is .* at step \d: .*its batch: train-\d+, .*train-.*checkpoint of step"):
        trained_on("out", method="full", learning_rate=30, epochs=3, warmup=1, batch_rows=4, checkpoint_minutes=EVERY_STEP)


def test_one_thread_at_most_is_left_to_the_background(kept):
    assert sum(thread.name == "checkpoints" for thread in threading.enumerate()) == 1
    kept.close()
    assert not any(thread.name == "checkpoints" for thread in threading.enumerate())

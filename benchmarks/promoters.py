"""Does of many promoters exactly one win, also when some are killed? Runs rounds of them at once, and looks at what is left.

Each round is as many processes as `--promoters` says, each with a model of its own and a gate that has compared with the same
champion, all started at the same moment on one real S3 server and one MLflow. Half of the models are whole in the store, of
the others promote has to upload the weights again. From the second round on some processes are killed (SIGKILL) at random
moments, until there were `--kills`, and started again as KFP does; so are those that end with an error, as a SQLite file has
them under many writers. A round is good if

- exactly one model was promoted, that is: the ledger has one entry more, and every other promoter was told to gate again;
- after healing the aliases name what the ledger says, and no model is registered twice;
- before healing and after it every alias names a version whose files are all in the store, each with its checksum.

Exits with 1 if a round was not. With --json FILE it writes {"rounds": {"ours": good rounds, "theirs": rounds, "ratio": 1.0,
"unit": "rounds", "n": promoters}, "kills": …}.

    python -m benchmarks.promoters --json promoters.json
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calltune import exports, ledger, models, runtime, storage, tracking
from components.promote.config import PromoteConfig
from components.promote.step import CHANGED, promote
from pipelines.embedded import s3_server

NAME = "race"
WEIGHTS = 256 * 1024
# Forked, so that what is imported here once is imported in all. This process opens neither store nor MLflow: what two
# processes share of an open database is damaged.
FORK = multiprocessing.get_context("fork")
POLL_S = 0.02
RETRIES = 2
"""As `pipelines.placement` has it for promote."""
BARRIER_S = 600


@dataclass(frozen=True)
class Round:
    """What a round came to.

    Attributes:
        wrong: what is not as it should be; empty for a good round.
        agreed: whether the aliases were right before healing.
        kills: what each killed promoter was doing.
        failed: promoters that ended with an error of store or MLflow, and were started again, too.
        seconds: until the last promoter had ended, without those that were started again.
    """

    wrong: list[str]
    agreed: bool
    kills: list[str]
    failed: int
    seconds: float


class Promoter:
    """One candidate, and the process that promotes it."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder, self.run_id = folder, run_id
        self.process: Any = None

    @property
    def digest(self) -> str:
        """Of its model."""
        return str(runtime.read_json(self.folder / "model.json")["digest"])

    def start(self, barrier: Any) -> None:
        """Start the process; it waits at the barrier for the others."""
        self.process = FORK.Process(target=_alone, args=(self._promote, barrier))
        self.process.start()

    def _promote(self, barrier: Any) -> None:
        os.environ |= {"CALLTUNE_RUN_ID": self.run_id, "CALLTUNE_EVENTS": str(self.folder / "events.jsonl")}
        os.environ["CALLTUNE_CACHE"] = str(self.folder / "cache")
        barrier.wait()
        files = (self.folder / name for name in ("model.json", "decision.json", "promotion.json"))
        model, decision, out = files
        promote(model, decision, "print", PromoteConfig(name=NAME), out)

    def result(self) -> dict[str, Any] | None:
        """What promote has written; None where it was killed before."""
        file = self.folder / "promotion.json"
        return dict(json.loads(file.read_text())) if file.exists() else None

    def doing(self) -> str:
        """What it had begun when it was killed."""
        file = self.folder / "events.jsonl"
        said = file.read_text() if file.exists() else ""
        return "registry and ledger" if "register in MLflow" in said else "uploading" if "upload" in said else "beginning"


def _alone(function: Callable[..., Any], *arguments: Any) -> None:
    storage.open_store.cache_clear()
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own; returns what it returns."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_alone, args=(lambda: theirs.send(function(*arguments)),))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} has failed") from None
    finally:
        process.join()


def candidates(root: Path, number: int, count: int, seed: int) -> tuple[list[Promoter], int]:
    """Make the models of a round and their gates' decisions; returns their promoters, and how long the ledger is."""
    store, history, made = storage.of_run(), ledger.entries(NAME, "champion"), []
    for place in range(count):
        folder = root / f"{number}-{place}"
        content = folder / "content"
        content.mkdir(parents=True)
        (content / "config.json").write_text(f"{seed} {number} {place}")
        (content / "model.safetensors").write_bytes(random.Random(f"{seed} {number} {place}").randbytes(WEIGHTS))
        files = models.checksums(content)
        digest = models.digest(files)
        for name in files:
            if place % 2 == 0 or name == "config.json":
                store.upload(content / name, f"models/{digest}/{name}")
        (folder / "cache" / "models").mkdir(parents=True)
        content.rename(folder / "cache" / "models" / digest)
        model = {"uri": f"{store.uri}/models/{digest}", "digest": digest, "files": files}
        serving = history[-1] if history else {"version": None, "digest": None}
        champion = {key: serving[key] for key in ("version", "digest")}
        numbers = {"observed": 0.9, "required": 0.8, "low": 0.85, "high": 0.93}
        check = {"name": "threshold: tool_accuracy", "passed": True, "reason": "0.9, at least 0.8 is required.", **numbers}
        decision = {"passed": True, "checks": [check], "candidate": {"digest": digest}, "champion": champion}
        decision["metrics"] = {"tool_accuracy": 0.9}
        runtime.write_json(folder / "model.json", model)
        runtime.write_json(folder / "decision.json", decision)
        made.append(Promoter(folder, f"run-{number}-{place}"))
    return made, len(history)


def race(promoters: Sequence[Promoter], doomed: dict[int, float]) -> list[int]:
    """Run promoters at once; those in `doomed` are killed so many seconds after the start. Returns which were still running."""
    barrier = FORK.Barrier(len(promoters) + 1, timeout=BARRIER_S)
    for promoter in promoters:
        promoter.start(barrier)
    barrier.wait()
    started, killed = time.monotonic(), []
    while any(promoter.process.is_alive() for promoter in promoters):
        for place, after in doomed.items():
            if place not in killed and time.monotonic() - started >= after and promoters[place].process.is_alive():
                promoters[place].process.kill()
                killed.append(place)
        time.sleep(POLL_S)
    for promoter in promoters:
        promoter.process.join()
    return [place for place in killed if promoters[place].process.exitcode == -9]


def _should(history: Sequence[ledger.Entry]) -> dict[str, str]:
    """The aliases as the ledger has them."""
    return dict(zip(("champion", "previous"), (str(entry["version"]) for entry in reversed(history)), strict=False))


def glance() -> tuple[list[str], bool]:
    """What is wrong after a race before anything has healed it, and whether the aliases name already what the ledger says."""
    named = tracking.aliases(NAME)
    return _not_whole(named), named == _should(ledger.entries(NAME, "champion"))


def look(digests: Sequence[str], before: int) -> list[str]:
    """What is wrong in store, ledger and registry after a round, when the aliases have been healed."""
    os.environ["CALLTUNE_EVENTS"] = os.devnull
    history, wrong = ledger.heal(NAME, "champion"), []
    if len(history) != before + 1 or history[-1]["n"] != before + 1 or history[-1]["digest"] not in digests:
        wrong.append(f"the ledger had {before} entries, and has {len(history)}")
    named = tracking.aliases(NAME)
    if named != _should(history):
        wrong.append(f"the ledger says {_should(history)}, and the registry {named}")
    registered = [version.tags["digest"] for version in tracking.versions(NAME)]
    counts = {digest: registered.count(digest) for digest in digests}
    wrong += [f"model {digest[:12]} is registered {count} times" for digest, count in counts.items() if count != 1]
    return wrong + _not_whole(named)


def _not_whole(named: dict[str, str]) -> list[str]:
    """Aliases of versions that are unknown, or whose files are not what the ledger says of them."""
    os.environ["CALLTUNE_EVENTS"] = os.devnull
    files = {entry["digest"]: entry for entry in ledger.entries(NAME, "champion")}
    digests = {str(version.version): version.tags["digest"] for version in tracking.versions(NAME)}
    wrong = []
    for alias, version in named.items():
        try:
            exports.require_whole(files[digests[version]])
        except Exception as error:
            wrong.append(f"{alias} is version {version}: {type(error).__name__} {error}")
    return wrong


def play(root: Path, number: int, count: int, seed: int, doomed: dict[int, float]) -> Round:
    """One round."""
    promoters, before = apart(candidates, root, number, count, seed)
    digests = [promoter.digest for promoter in promoters]
    started = time.monotonic()
    killed = race(promoters, doomed)
    seconds = time.monotonic() - started
    kills = [promoters[place].doing() for place in killed]
    wrong, agreed = apart(glance)
    failed = sum(promoter.result() is None and place not in killed for place, promoter in enumerate(promoters))
    for _ in range(RETRIES):
        race([promoter for promoter in promoters if promoter.result() is None], {})
    wrong += apart(look, digests, before)
    results = [promoter.result() for promoter in promoters]
    winners = [result for result in results if result and result["promoted"]]
    told = [result for result in results if result and result["reason"] == CHANGED]
    if (len(winners), len(told)) != (1, count - 1):
        wrong.append(f"{len(winners)} were promoted, and {len(told)} of {count} told to gate again")
    return Round(wrong, agreed, kills, failed, seconds)


def rounds(root: Path, count: int, promoters: int, kills: int, seed: int) -> list[Round]:
    """Play and print rounds; kills begin in the second one, when it is known how long a round takes."""
    import boto3  # noqa: F401
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    dice, played = random.Random(seed), list[Round]()
    for number in range(1, count + 1):
        left = kills - sum(len(one.kills) for one in played)
        chosen = dice.sample(range(promoters), min(left, promoters // 2)) if played else []
        doomed = {place: dice.uniform(0, played[0].seconds) for place in chosen}
        played.append(play(root, number, promoters, seed, doomed))
        said = "; ".join(played[-1].wrong) or "one winner, ledger and aliases agree, everything whole"
        before = "" if played[-1].agreed else " (aliases after healing)"
        hit = f"; killed: {', '.join(played[-1].kills)}" if played[-1].kills else ""
        hit += f"; {played[-1].failed} failed first" if played[-1].failed else ""
        print(f"round {number:2}, {played[-1].seconds:5.1f} s: {said}{before}{hit}", flush=True)
    return played


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description="Let promoters race, kill some, and look whether exactly one has won.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--promoters", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tracking", help="an MLflow server to use; a SQLite file by default")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder) / "s3") as environment:
        os.environ |= {
            **environment,
            "CALLTUNE_CACHE": folder,
            "CALLTUNE_TRACKING": given.tracking or f"sqlite:///{folder}/mlflow.db",
        }
        apart(tracking.aliases, NAME)  # MLflow makes its tables now, and not in eight processes at once
        played = rounds(Path(folder), given.rounds, given.promoters, given.kills, given.seed)
    good, kills = [one for one in played if not one.wrong], sum(len(one.kills) for one in played)
    alone = sum(one.agreed for one in played)
    print(f"{len(good)} of {len(played)} rounds good, {kills} kills; before healing the aliases were right in {alone}")
    if given.json:
        survived = sum(len(one.kills) for one in good)
        figures = {"rounds": (len(good), len(played), given.promoters), "kills": (survived, kills, 1)}
        rows = {
            what: {"ours": ours, "theirs": theirs, "ratio": ours / max(theirs, 1), "unit": what, "n": n}
            for what, (ours, theirs, n) in figures.items()
        }
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if len(good) == len(played) else 1


if __name__ == "__main__":
    sys.exit(main())

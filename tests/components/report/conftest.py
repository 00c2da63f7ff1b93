"""A realistic run, made up: what the report is given."""

import random
from typing import Any

import pytest

from calltune.breakdown import by_tool
from components.report.page import Material

TOOLS = ["search_knowledge_base", "search_web", "create_ticket", "find_employee", "book_room"]
N = 210
SUBJECTS = ["travel meal limit", "VPN password reset", "parental leave", "EU AI Act deadline", "projector in room 4", "Ana Souza"]


def interval(right: int, of: int) -> dict[str, Any]:
    if of == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    value = right / of
    half = 1.96 * (value * (1 - value) / of + 1 / of**2) ** 0.5
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": of}


def arguments(name: str, dice: random.Random) -> dict[str, Any]:
    subject = dice.choice(SUBJECTS)
    if name == "book_room":
        return {"day": "Thursday", "start": "14:30", "minutes": 45, "people": dice.randint(2, 12)}
    if name == "find_employee":
        return {"name": subject, "detail": dice.choice(["email", "phone", "office"])}
    if name == "create_ticket":
        return {"summary": subject, "category": "hardware", "priority": "urgent"}
    return {"query": subject}


def question(number: int, dice: random.Random) -> dict[str, Any]:
    draw = dice.random()
    names = [] if draw < 0.15 else dice.sample(TOOLS, 2) if draw < 0.25 else [dice.choice(TOOLS)]
    calls = [{"name": name, "arguments": arguments(name, dice)} for name in names]
    subject = dice.choice(SUBJECTS)
    asked = f"Hi, quick one before my 2 pm: what do we say about {subject}, and whom would I ask next (case {number})?"
    return {"id": f"{number:04d}", "question": asked, "calls": calls}


def prediction(row: dict[str, Any], verdict: str, dice: random.Random) -> dict[str, Any]:
    calls = [{"name": call["name"], "arguments": dict(call["arguments"])} for call in row["calls"]]
    text, reason, stop = "", "", "stop"
    if verdict == "wrong_tool" and calls:
        calls[0]["name"] = dice.choice([tool for tool in TOOLS if tool != calls[0]["name"]])
        reason = f"called {calls[0]['name']}, expected {row['calls'][0]['name']}"
    elif verdict == "missing_call":
        calls, text = [], "I can help with that! Here is what I know about it. " * 9
        reason, stop = "no call, 1 expected", "length"
    elif verdict == "malformed":
        calls, text = [], '<tool_call>{"name": "search_web", "arguments": {"query": "vpn'
        reason = "not JSON: the call was cut off"
    elif verdict == "unwanted_call":
        calls = [{"name": "search_web", "arguments": {"query": "anything"}}]
        reason = "called search_web, expected no call"
    elif verdict == "wrong_arguments":
        calls[0]["arguments"]["recency"] = "week"
        reason = "search_web.recency: unexpected argument"
    if not calls and not text:
        text = "Sure. Which of the two rooms do you mean?"
    expected = [{"name": c["name"], "arguments": {k: [v] for k, v in c["arguments"].items()}} for c in row["calls"]]
    for call in expected:
        if "priority" in call["arguments"]:
            call["arguments"]["priority"] = ["urgent", "high", ""]
    return {
        "id": row["id"],
        "question": row["question"],
        "text": text,
        "calls": calls,
        "expected": expected,
        "verdict": verdict,
        "reason": reason,
        "stop": stop,
        "prompt_tokens": 540 + dice.randint(0, 40),
        "new_tokens": 128 if stop == "length" else 30,
    }


def label(calls: list[dict[str, Any]]) -> str:
    return " + ".join(sorted(call["name"] for call in calls)) or "no call"


def evaluated(which: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    def share(right: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
        return interval(sum(row["verdict"] in right for row in rows), len(rows))

    confusion: dict[str, dict[str, int]] = {}
    for row in rows:
        cells = confusion.setdefault(label(row["expected"]), {})
        cells[label(row["calls"])] = cells.get(label(row["calls"]), 0) + 1
    calling = [row for row in rows if row["expected"]]
    attempted = [row for row in rows if row["calls"] or row["verdict"] == "malformed"]
    return {
        "present": True,
        "which": which,
        "model_digest": f"{which}-" + "5e" * 28,
        "test_fingerprint": "7c" * 32,
        "settings": {"max_new_tokens": 128, "engine": "hf"},
        "template_sha256": "a1" * 32,
        "predictions_sha256": "b2" * 32,
        "n": len(rows),
        "metrics": {
            "tool_accuracy": share(["correct", "wrong_arguments"], rows),
            "tool_accuracy_calls": share(["correct", "wrong_arguments"], calling),
            "call_accuracy": share(["correct"], rows),
            "ast_call_accuracy": share(["correct"], rows[: len(rows) // 2]),
            "valid_call_rate": interval(sum(row["verdict"] != "malformed" for row in attempted), len(attempted)),
            "abstention_accuracy": share(["correct"], [row for row in rows if not row["expected"]]),
            "max_length_stop_rate": interval(sum(row["stop"] == "length" for row in rows), len(rows)),
            "prompt_tokens_mean": {"value": 561.37, "low": 559.9, "high": 562.8, "n": len(rows)},
        },
        "verdicts": {row["id"]: row["verdict"] for row in rows},
        "outcomes": {
            "tool_accuracy": {row["id"]: int(row["verdict"] in ("correct", "wrong_arguments")) for row in rows},
            "call_accuracy": {row["id"]: int(row["verdict"] == "correct") for row in rows},
            "abstention_accuracy": {row["id"]: int(row["verdict"] == "correct") for row in rows if not row["expected"]},
        },
        "confusion": confusion,
        "tools": by_tool(confusion),
        "arguments": {
            "search_web.query": {"rule": "any", **interval(30, 36)},
            "book_room.start": {"rule": "ast", **interval(20, 40)},
            "book_room.note": {"rule": "any", **interval(0, 0)},
        },
        "seconds": 118.2,
    }


def predictions(rows: list[dict[str, Any]], chances: dict[str, float], seed: int) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    verdicts = dice.choices(list(chances), list(chances.values()), k=len(rows))
    made = []
    for row, verdict in zip(rows, verdicts, strict=True):
        fits = {"unwanted_call"} if not row["calls"] else {"missing_call", "wrong_tool", "wrong_arguments", "malformed"}
        made.append(prediction(row, verdict if verdict in fits else "correct", dice))
    return made


@pytest.fixture(scope="session")
def material() -> Material:
    """A run that was promoted over a champion: 210 questions, about one in eight of them answered wrongly."""
    dice = random.Random(3)
    rows = [question(number, dice) for number in range(N)]
    base_rows = predictions(rows, {"missing_call": 0.9, "wrong_tool": 0.02, "malformed": 0.08}, 5)
    tuned_chances = {"correct": 0.84, "wrong_tool": 0.06, "missing_call": 0.02, "wrong_arguments": 0.05, "unwanted_call": 0.15}
    tuned_rows = predictions(rows, tuned_chances, 7)
    base, candidate = evaluated("base", base_rows), evaluated("candidate", tuned_rows)
    champion = evaluated("champion", predictions(rows, {"correct": 0.74, "wrong_tool": 0.16, "missing_call": 0.1}, 9))
    accuracy = candidate["metrics"]["tool_accuracy"]["value"]
    checks = [
        {
            "name": "min_questions",
            "passed": True,
            "observed": N,
            "required": 50,
            "reason": f"{N} questions, 50 required",
            "low": None,
            "high": None,
        },
        {
            "name": "tool_accuracy",
            "passed": True,
            "observed": accuracy,
            "required": 0.8,
            "reason": f"{accuracy:.3f} reaches 0.8",
            **bounds(candidate),
        },
        {
            "name": "tool_accuracy over base",
            "passed": True,
            "observed": 0.71,
            "required": 0.1,
            "reason": "0.71 more than the base model, paired interval above 0.1",
            "low": 0.64,
            "high": 0.77,
        },
        {
            "name": "tool_accuracy against champion",
            "passed": True,
            "observed": 0.11,
            "required": 0.0,
            "reason": "better than version 2: McNemar's exact test, p = 0.0004",
            "low": 0.05,
            "high": 0.17,
        },
    ]
    loss: list[dict[str, Any]] = []
    for step in range(1, 93):
        loss.append(
            {
                "step": str(step),
                "epoch": f"{step / 23:.4f}",
                "train_loss": f"{2.6 * 0.955**step + 0.12 + dice.uniform(0, 0.1):.4f}",
                "validation_loss": "",
            }
        )
        if step % 23 == 0:
            loss.append(
                {
                    "step": str(step),
                    "epoch": f"{step / 23:.1f}",
                    "train_loss": "",
                    "validation_loss": str([0.71, 0.3812, 0.2874, 0.3141][step // 23 - 1]),
                }
            )
    return Material(
        summary={
            "run_id": "20261104-081533-5f2c",
            "outcome": "promoted",
            "config_sha256": "0d" * 32,
            "dataset": {
                "fingerprint": "9b" * 32,
                "read": 641,
                "kept": 637,
                "quarantined": 3,
                "duplicates": 1,
                "train": 362,
                "validation": 64,
                "test": N,
            },
            "baseline": base["metrics"],
            "candidate": candidate["metrics"],
            "champion": champion["metrics"],
            "gate": {"passed": True, "checks": checks},
            "promoted": {"model": "helpdesk", "version": 3, "alias": "champion", "previous": 2, "unchanged": False},
            "steps": [
                {"name": name, "seconds": seconds, "peak_rss_mib": mib, "cached": name in ("ingest", "format")}
                for name, seconds, mib in [
                    ("look", 1.8, 212),
                    ("ingest", 2.1, 240),
                    ("format", 6.4, 611),
                    ("train", 874.2, 2904),
                    ("export", 21.7, 1410),
                    ("evaluate-base", 402.9, 1777),
                    ("evaluate-candidate", 131.0, 1781),
                    ("evaluate-champion", 128.4, 1779),
                    ("gate", 3.3, 330),
                    ("promote", 4.1, 402),
                ]
            ],
            "artifacts": {"model": "s3://calltune/models/5e5e5e5e", "report": "runs/helpdesk/report.html"},
        },
        profile={
            "read": 641,
            "kept": 637,
            "quarantined": 3,
            "duplicates": 1,
            "left_out": 7,
            "fingerprint": "9b" * 32,
            "dialect": "calltune",
            "tools": dict(zip(TOOLS, [201, 118, 96, 104, 84], strict=True)),
        },
        stats={
            "train": 362,
            "validation": 64,
            "test": N,
            "quarantined": 1,
            "template": "hermes",
            "template_reason": "the model's own ignores tools",
            "tokens": {
                "rows": [int(dice.gauss(596, 14)) for _ in range(362)],
                "prefix": 512,
                "supervised": [int(dice.gauss(41, 11)) for _ in range(362)],
            },
            "max_tokens": 2048,
            "supervise_tools": False,
            "warnings": {"never_called": "1 of 5 tools in the training rows are never called there: find_employee"},
            "strata": {
                split: {
                    **dict(zip(TOOLS, shares, strict=True)),
                    "no call": shares[0] // 2,
                    "create_ticket + search_web": 9,
                    "find_employee + search_web": 7,
                }
                for split, shares in {
                    "train": [98, 63, 51, 55, 44],
                    "validation": [17, 11, 9, 10, 8],
                    "test": [57, 36, 29, 32, 25],
                }.items()
            },
        },
        train={
            "method": "lora",
            "learning_rate": 0.001,
            "steps": 92,
            "epochs": 4,
            "best_epoch": 3,
            "train_loss": 0.162,
            "validation_loss": 0.2874,
            "trainable_parameters": 4884480,
            "seconds": 874.2,
            "tokens": 215752,
            "supervised_tokens": 14842,
            "tokens_per_s": 246.8,
            "supervised_tokens_per_s": 16.98,
            "mfu": 0.312,
            "mfu_formula": "FLOPs / seconds / device_tflops",
            "device_tflops": 0.244,
            "peak_rss_mib": 2904,
            "peak_gpu_mib": None,
            "gpu_hours": 0.0,
            "energy_kwh": None,
            "energy_source": "no GPU",
            "price": 0.1457,
            "library": {"trl": "1.16"},
        },
        loss=loss,
        base=base,
        candidate=candidate,
        champion=champion,
        base_predictions=base_rows,
        candidate_predictions=tuned_rows,
        decision={"passed": True, "checks": checks, "champion": {"version": "2", "digest": "c4" * 32}},
        promotion={
            "model": "helpdesk",
            "version": "3",
            "alias": "champion",
            "previous": "2",
            "unchanged": False,
            "promoted": True,
            "reason": "the gate passed",
        },
        notes=[
            "template: hermes, because the model's own template ignores tools",
            "train.method: lora, because the model has fewer than 1 B parameters",
        ],
        versions={"calltune": "0.1.0", "transformers": "5.23.0", "trl": "1.16.0", "torch": "2.13.0"},
    )


def bounds(metrics: dict[str, Any]) -> dict[str, float]:
    found = metrics["metrics"]["tool_accuracy"]
    return {"low": found["low"], "high": found["high"]}

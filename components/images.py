"""The container images, in one place: one for each set of dependencies."""

CPU = "calltune-python-cpu:0.1.0"
"""look, ingest, format, gate, promote, report, notify."""

TRAIN = "calltune-python-train:0.1.0"
"""train, export, evaluate: with torch, TRL, PEFT and bitsandbytes."""

VLLM = "calltune-python-vllm:0.1.0"
"""evaluate, where `evaluate.engine` is vllm."""

USER = 10001
"""The user, and its group, that the images run as."""

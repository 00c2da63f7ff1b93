"""Merging an adapter into a sharded base: ours, tensor by tensor, beside PEFT's `merge_and_unload` with the model in memory.

Makes a random Llama-shaped model in bf16 in 8 files, 1.6 GiB in all, and a random adapter (r=16, every linear layer) in a
temporary folder. Each case runs in a process of its own: peak memory above that after its imports, and seconds for the
whole way from the files to the files. Prints a table, and with --json FILE writes
{"memory": {"ours": MiB, "theirs": MiB, "ratio": ours / theirs, "unit": "MiB", "n": 1}, "time": ..., "memory, dequantized": ...}.
PEFT has no counterpart to a merge into the dequantised base: on a 4-bit one it quantises the sum again.

    nice -n 19 python -m benchmarks.export --json export.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARDS = 8
ALLOWED_MIB = 100
"""Above 1.5 of the largest shard and the adapter: what the merge may take."""


def make(folder: Path, layers: int = 16, hidden: int = 2048, intermediate: int = 5632) -> tuple[Path, Path]:
    """Write the base, in 8 files, and an adapter for it, as train writes one for `qlora`; returns their folders."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        vocab_size=16_000,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        network = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    network.save_pretrained(folder / "base", max_shard_size=_shard_bytes(network))
    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    peft = get_peft_model(network, settings)
    peft.save_pretrained(folder / "adapter")
    (folder / "adapter" / "method.json").write_text('{"method": "qlora"}')
    return folder / "base", folder / "adapter"


def _shard_bytes(network: Any) -> int:
    """The size of a file with which there are as many as there shall be: files end at whole tensors."""
    sizes = [parameter.nbytes for parameter in network.parameters()]
    limit = sum(sizes) // SHARDS
    while _files(sizes, limit) > SHARDS:
        limit += limit // 50
    return limit


def _files(sizes: list[int], limit: int) -> int:
    files, filled = 1, 0
    for size in sizes:
        if filled + size > limit:
            files, filled = files + 1, 0
        filled += size
    return files


def limit_mib(base: Path, adapter: Path) -> float:
    """What the merge may take above its imports: 1.5 of the largest shard, the adapter and 100 MiB."""
    shard = max(path.stat().st_size for path in base.glob("*.safetensors"))
    return (1.5 * shard + (adapter / "adapter_model.safetensors").stat().st_size) / 2**20 + ALLOWED_MIB


def measured(how: str, base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Run one case in a process of its own: `peak_mib` above the imports, and `seconds`."""
    command = [sys.executable, "-m", "benchmarks.export", "--case", how, *map(str, (base, adapter, out))]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))


def case(how: str, base: Path, adapter: Path, out: Path) -> None:
    """Merge in this process, and print what it took."""
    import time

    import bitsandbytes.functional  # noqa: F401
    import peft
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401

    from components.export.merge import write_merged

    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    started = time.monotonic()
    if how == "peft":
        network = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        whole = peft.PeftModel.from_pretrained(network, adapter).merge_and_unload(safe_merge=True)
        whole.save_pretrained(out, max_shard_size=max(path.stat().st_size for path in base.glob("*.safetensors")))
    else:
        write_merged(base, adapter, how, "auto", out)
    seconds = time.monotonic() - started
    print(json.dumps({"peak_mib": round(_memory("VmHWM") - before), "seconds": round(seconds, 1)}))


def _memory(field: str) -> float:
    """Of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    """Make the model, measure, print, and write."""
    if "--case" in sys.argv:
        how, *folders = sys.argv[sys.argv.index("--case") + 1 :]
        case(how, *map(Path, folders))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base, adapter = make(Path(place))
        sizes = [path.stat().st_size / 2**20 for path in base.glob("*.safetensors")]
        print(f"base: {len(sizes)} shards, {sum(sizes):.0f} MiB, the largest {max(sizes):.0f} MiB")
        print(f"limit: {limit_mib(base, adapter):.0f} MiB above the imports")
        found = {how: measured(how, base, adapter, Path(place) / how) for how in ("original", "dequantized", "peft")}
    for how, row in found.items():
        print(f"{how:<12} {row['peak_mib']:>6} MiB {row['seconds']:>7.1f} s")
    results: dict[str, dict[str, Any]] = {}
    for how, name in (("original", ""), ("dequantized", ", dequantized")):
        for key, title, unit in (("peak_mib", "memory", "MiB"), ("seconds", "time", "s")):
            ours, theirs = found[how][key], found["peft"][key]
            results[title + name] = {"ours": ours, "theirs": theirs, "ratio": ours / theirs, "unit": unit, "n": 1}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

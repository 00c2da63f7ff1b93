"""An exported folder that is not what was trained is refused, however it came about."""

import json
import math
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file

from calltune import models, runtime
from calltune.render import template_of
from components.export.merge import merged
from components.export.verify import POSITIONS, ROWS, ExportError, _logits, compare, verify


@pytest.fixture
def damaged(exported, tmp_path):
    """A copy of the exported folder, to be damaged."""
    return shutil.copytree(exported("full").folder, tmp_path / "damaged", copy_function=shutil.copyfile)


def checked(folder, trained, dataset, tiny_model, method="full", merge_into="dequantized"):
    return verify(folder, tiny_model, trained(method).adapter, dataset, template_of("hermes"), merge_into)


def test_verification_accepts_the_undamaged_copy(damaged, trained, dataset, tiny_model):
    found = checked(damaged, trained, dataset, tiny_model)
    assert (found.top1, found.kl) == (1.0, 0.0)
    rows = pq.read_table(dataset / "validation.parquet").slice(0, ROWS).to_pylist()
    assert found.positions == min(POSITIONS, sum(sum(row["loss_mask"]) for row in rows))


@pytest.mark.parametrize("part", ["model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.v_proj.weight"])
def test_verification_refuses_a_damaged_layer(damaged, trained, dataset, tiny_model, part):
    weights = load_file(damaged / "model.safetensors")
    weights[part] = -weights[part]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"predicts what the trained one does at [\d.]+%.*; 99% and at most 0.005 nats"):
        checked(damaged, trained, dataset, tiny_model)


@pytest.mark.parametrize("most", [10_000, 64])
def test_every_row_has_its_say_however_long_the_answers_are(damaged, monkeypatch, most):
    monkeypatch.setattr("components.export.verify.POSITIONS", most)
    dice = torch.Generator().manual_seed(0)
    rows = []
    for prompt, answer in ((50, 40), (45, 7), (60, 90)):
        ids = torch.cat([torch.arange(40), torch.randint(40, 900, (prompt + answer - 40,), generator=dice)]).tolist()
        rows.append({"input_ids": ids, "loss_mask": [False] * prompt + [True] * answer})
    network = models.load(damaged, dtype=torch.float32)
    with torch.inference_mode():
        for row, logits in zip(rows, list(_logits(network, rows)), strict=True):
            alone = network(input_ids=torch.tensor([row["input_ids"]])).logits[0, row["loss_mask"].index(True) - 1 : -1]
            count = min(len(alone), most if most > 137 else most // 3)
            expected = alone[[number * len(alone) // count for number in range(count)]]
            assert logits.shape == expected.shape and (logits - expected).abs().max() < 1e-4


def scaled(adapter, factor, place):
    """A copy of the adapter that counts `factor` times as much."""
    shutil.copytree(adapter, place)
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * factor}))
    return place


def merged_twice(base, adapter, place):
    """The adapter merged into what it has been merged into already."""
    once = merged(base, adapter, "dequantized")
    once.save_pretrained(place / "once")
    return PeftModel.from_pretrained(models.load(place / "once", dtype=torch.float32), adapter).merge_and_unload()


def quantised_again(base, adapter, place):
    """What PEFT itself makes of an adapter on a 4-bit base: it rounds the sum to NF4 again."""
    whole = PeftModel.from_pretrained(models.load_nf4(base, torch.float32), adapter).merge_and_unload()
    plain = models.load(base, dtype=torch.float32)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = whole.get_submodule(name).weight
            module.weight.data = dequantize_4bit(weight.data, weight.quant_state)
    return plain


WRONG = {
    "twice": merged_twice,
    "at double scale": lambda base, adapter, place: merged(base, scaled(adapter, 2, place / "a"), "dequantized"),
    "at half scale": lambda base, adapter, place: merged(base, scaled(adapter, 0.5, place / "a"), "dequantized"),
    "not at all": lambda base, adapter, place: models.load(base, dtype=torch.float32),
    "into the original weights": lambda base, adapter, place: merged(base, adapter, "original"),
    "and quantised again": quantised_again,
}


@pytest.fixture
def wrongly(exported, trained, tiny_model, tmp_path):
    """A function that gives an exported folder whose weights were merged wrongly."""

    def make(method, how):
        folder = shutil.copytree(exported(method).folder, tmp_path / "wrong", copy_function=shutil.copyfile)
        adapter = trained(method).adapter
        WRONG[how](tiny_model, adapter, tmp_path / "place").to(torch.bfloat16).save_pretrained(folder)
        return folder

    return make


FOR_QLORA = ("into the original weights", "and quantised again")
"""Wrong only where the base is quantised."""


@pytest.mark.parametrize(
    ("method", "how"),
    [(method, how) for how in WRONG for method in ("lora", "qlora") if how not in FOR_QLORA or method == "qlora"],
)
def test_an_adapter_that_was_merged_wrongly_is_refused(wrongly, trained, dataset, tiny_model, method, how):
    with pytest.raises(ExportError, match=r"99% and at most 0.005 nats are required"):
        checked(wrongly(method, how), trained, dataset, tiny_model, method)


def test_a_merge_into_the_original_weights_is_reported_and_held_to_a_limit_of_its_own(wrongly, trained, dataset, tiny_model):
    found = checked(wrongly("qlora", "into the original weights"), trained, dataset, tiny_model, "qlora", "original")
    assert 0.01 < found.kl < 0.1 and 0.5 < found.top1 < 0.99


def test_what_lacks_its_adapter_is_refused_also_on_the_original_weights(wrongly, trained, dataset, tiny_model):
    with pytest.raises(ExportError, match=r"50% and at most 0.5 nats are required; export.merge_into: dequantized is what was"):
        checked(wrongly("qlora", "not at all"), trained, dataset, tiny_model, "qlora", "original")


def test_the_limit_of_original_weights_is_for_qlora_alone(wrongly, trained, dataset, tiny_model):
    with pytest.raises(ExportError, match=r"99% and at most 0.005 nats are required"):
        checked(wrongly("lora", "at half scale"), trained, dataset, tiny_model, "lora", "original")


@pytest.mark.parametrize(("dtype", "advised"), [("bfloat16", True), ("float32", False)])
def test_what_may_be_lost_to_rounding_is_said_with_the_setting_that_keeps_it(
    wrongly, trained, dataset, tiny_model, dtype, advised
):
    folder = wrongly("lora", "not at all")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
    with pytest.raises(ExportError) as raised:
        checked(folder, trained, dataset, tiny_model, "lora")
    assert ("export.dtype: float32 keeps it" in str(raised.value)) == advised


def logits(*positions):
    """One row's logits."""
    return [torch.tensor(positions, dtype=torch.float32)]


def test_a_near_tie_may_go_either_way_and_a_decided_position_may_not():
    tied, decided = [2.0, 1.95, 0.0], [2.0, 1.0, 0.0]
    turned = compare(logits(tied, decided), iter(logits([1.95, 2.0, 0.0], decided)))
    assert (turned.top1, turned.positions) == (1.0, 2) and 0 < turned.kl < 1e-3
    # Of a tie only the tied ones are as good.
    assert compare(logits(tied, decided), iter(logits([0.0, 0.0, 1.0], decided))).top1 == 0.5
    assert compare(logits(tied, decided), iter(logits(tied, [1.0, 2.0, 0.0]))).top1 == 0.5


def test_the_divergence_is_that_of_its_definition():
    one, two = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    found = compare(logits(*[[math.log(p) for p in one]] * 3), iter(logits(*[[math.log(p) for p in two]] * 3)))
    assert found.kl == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_weights_that_are_no_numbers_are_refused(damaged, trained, dataset, tiny_model):
    weights = load_file(damaged / "model.safetensors")
    save_file({name: w * torch.nan for name, w in weights.items()}, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="mean KL divergence of nan nats"):
        checked(damaged, trained, dataset, tiny_model)


def test_verification_refuses_another_chat_template(damaged, trained, dataset, tiny_model):
    (damaged / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ExportError, match="the chat template is not the one that training used") as raised:
        checked(damaged, trained, dataset, tiny_model)
    assert runtime.failure_of("export", raised.value)["code"] == 2, "one line, and nobody exports the same again"

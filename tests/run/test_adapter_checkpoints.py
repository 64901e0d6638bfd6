"""Checkpoints of a run with low-rank adapters: what they hold, resuming from them, and exporting them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from arithmetic_run import assert_same, finishing_callbacks, fresh_start, make_data, make_module, make_trainer, state_of
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rence_lightning.cli.commands.export import export_command
from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, load_policy, weights_digest
from rence_lightning.policy.load import EMBEDDED

LORA = LoRA(r=4, alpha=16, target_modules=["q_proj", "v_proj", "up_proj"])


def run(run_dir: Path, iterations: int, ckpt_path: str | None = None, **settings: Any) -> Any:
    fresh_start(int(ckpt_path is not None))
    trainer = make_trainer(run_dir, finishing_callbacks(), max_iterations=iterations)
    optimizer = settings.pop("optimizer", lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
    trainer.fit(make_module(optimizer=optimizer, **{"lora": LORA, **settings}), make_data(), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The embedded policy in a folder that a test can change."""
    return Path(shutil.copytree(EMBEDDED / "arithmetic", tmp_path / "base"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base in a folder, and a run of two iterations above it; tests copy what they change."""
    folder = tmp_path_factory.mktemp("adapters")
    base = Path(shutil.copytree(EMBEDDED / "arithmetic", folder / "base"))
    run(folder / "run", 2, policy=str(base))
    return base, folder / "run"


def greedy(model: Any, tokenizer: Any, texts: tuple[str, ...] = ("76+4+9=?\n", "8-3=?\n", "51+8-9+6=?\n")) -> list[Any]:
    prompts = [tokenizer(text, return_tensors="pt", add_special_tokens=False) for text in texts]
    return [model.generate(**p, max_new_tokens=40, do_sample=False)[0].tolist() for p in prompts]


@pytest.mark.slow
def test_six_iterations_are_three_and_three(tmp_path: Path) -> None:
    run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 3)
    run(tmp_path / "parts", 6, ckpt_path="last")
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for state in (whole, parts):
        for name in ("BenchmarkEvaluation", "Checkpoint"):  # know when they ran, which was after iteration 3 as well
            state[0]["run"]["callbacks"].pop(name)
    assert_same(whole, parts)
    weights = [load_file(tmp_path / name / "hf" / "model.safetensors") for name in ("whole", "parts")]
    assert_same(*weights)


def test_a_checkpoint_holds_the_adapters_and_their_optimizer_state_alone(finished: tuple[Path, Path]) -> None:
    base, run_dir = finished
    state, _ = state_of(run_dir)
    policy = load_policy(str(base), lora=LORA)
    adapters = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert state["policy"].keys() == adapters and len(adapters) == 2 * 3 * 2
    moments = state["optimizer"]["state"].values()
    assert [each["exp_avg"].shape for each in moments] == [weight.shape for weight in state["policy"].values()]
    assert all(weight.abs().max() > 0 for weight in state["policy"].values()), "an adapter did not train"
    recorded = json.loads((run_dir / "checkpoints" / "last" / "adapters.json").read_text())
    assert recorded["policy"] == str(base) and recorded["digest"] == weights_digest(load_policy(str(base)))
    sizes = [sum(f.stat().st_size for f in (run_dir / name).rglob("*")) for name in ("checkpoints/best", "hf")]
    assert sizes[0] < sizes[1] / 4


def test_the_runs_export_is_the_merged_policy(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Compared with the adapters loaded by plain peft: the same logits but for rounding, and the same tokens."""
    base, run_dir = finished
    export_command([str(run_dir), str(tmp_path / "adapter"), "--adapter"])
    export_command([str(run_dir), str(tmp_path / "merged")])
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (run_dir / "hf" / name).read_bytes(), name
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    logits = [plain(torch.arange(3, 12).view(1, -1)).logits]
    merged = AutoModelForCausalLM.from_pretrained(run_dir / "hf")
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    logits += [model(torch.arange(3, 12).view(1, -1)).logits for model in (merged, adapted)]
    torch.testing.assert_close(logits[1], logits[2], rtol=1e-5, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3, "training changed nothing"
    assert greedy(merged, tokenizer) == greedy(adapted, tokenizer)
    names = [set(load_file(folder / "model.safetensors")) for folder in (run_dir / "hf", base)]
    assert names[0] == names[1], "the export must have the names of the plain model"


def test_another_base_is_refused(finished: tuple[Path, Path], base: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(finished[1], tmp_path / "run", symlinks=True))
    moved = str(base)
    export_command([str(run_dir), str(tmp_path / "moved"), "--base", moved])
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] += 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    message = "holds adapters of .*base in float32, and the weights of .*base in float32 are others"
    for refused in (
        lambda: export_command([str(run_dir), str(tmp_path / "other"), "--base", moved]),
        lambda: run(run_dir, 3, ckpt_path="last", policy=moved),
    ):
        with pytest.raises(UserError, match=message) as error:
            refused()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "other").exists()


def test_a_base_that_is_gone_is_named(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(finished[1], tmp_path / "run", symlinks=True))
    for record in run_dir.glob("checkpoints/*/adapters.json"):
        record.write_text(record.read_text().replace(str(finished[0]), "/gone/base"))
    with pytest.raises(UserError, match=r"holds adapters of /gone/base alone.* no folder '/gone/base'.*--base"):
        export_command([str(run_dir), str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lora": None},
            r"holds adapters alone, but model.lora is null; set it to \{r: 4, alpha: 16, .*model.policy to",
        ),
        ({"lora": LoRA(r=8)}, r"model.lora is LoRA\(r=8.*was made with LoRA\(r=4"),
    ],
)
def test_other_adapters_are_refused(
    finished: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    run_dir = Path(shutil.copytree(finished[1], tmp_path / "run", symlinks=True))
    with pytest.raises(UserError, match=message):
        run(run_dir, 3, ckpt_path="last", policy=str(finished[0]), **settings)


def test_a_whole_policy_is_not_resumed_with_adapters(tmp_path: Path) -> None:
    run(tmp_path / "run", 1, lora=None)
    with pytest.raises(UserError, match=r"model.lora is set, but .* holds a whole policy without adapters"):
        run(tmp_path / "run", 2, ckpt_path="last")
    for options, message in ((["--adapter"], "trained without adapters"), (["--base", "x"], "remove --base")):
        with pytest.raises(UserError, match=message):
            export_command([str(tmp_path / "run"), str(tmp_path / "out"), *options])


def test_adapters_are_not_rounded_on_export(finished: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="remove --dtype or --adapter"):
        export_command([str(finished[1]), str(tmp_path / "out"), "--adapter", "--dtype", "bfloat16"])

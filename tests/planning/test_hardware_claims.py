"""The overlays of conf/hardware/ fit what their headers claim, in `fits: MODEL on N GB, ...`."""

import re
from pathlib import Path

import pytest
from command_line import CONF, printed_config

from benchmarks.qwen3 import SIZES, qwen3
from rence_lightning.planning import plan_of

GPU_OVERLAYS = sorted(path for path in (CONF / "hardware").glob("*.yaml") if path.stem != "cpu")
CLAIM = re.compile(r"Qwen3-([\d.]+B) on (\d+) GB")


def claims(overlay: Path) -> list[tuple[str, float]]:
    """Sizes of Qwen3, and the memory of each GPU in GB, that the header of an overlay claims to fit."""
    lines = [line for line in overlay.read_text().splitlines() if line.startswith("# fits: ")]
    return [(size, float(memory)) for line in lines for size, memory in CLAIM.findall(line)]


CLAIMS = [(overlay, *claim) for overlay in GPU_OVERLAYS for claim in claims(overlay)]


def test_every_overlay_for_gpus_claims_what_fits() -> None:
    assert {overlay for overlay, _, _ in CLAIMS} == set(GPU_OVERLAYS)
    assert all(size in SIZES for _, size, _ in CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize(("overlay", "size", "memory"), CLAIMS, ids=lambda value: getattr(value, "stem", str(value)))
def test_an_overlay_fits_its_claim(
    overlay: Path, size: str, memory: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    qwen3(size).save_pretrained(tmp_path)
    options = ["--config", str(CONF / "rence.yaml"), "--config", str(overlay), "--model.policy", str(tmp_path)]
    plan = plan_of(printed_config(capfd, "fit", *options), 1e9 * memory)
    assert plan.training_bytes <= plan.usable, f"training: {plan.train}"
    assert plan.sampling_bytes <= plan.usable, f"sampling: {plan.sample}"
    assert plan.sample.sequences >= 8  # a group at a time


def test_the_papers_run_verifies_the_engine(capfd: pytest.CaptureFixture[str]) -> None:
    assert printed_config(capfd, "fit", "--config", str(CONF / "rence.yaml"))["old_policy"]["max_mismatch"] == 0.05


@pytest.mark.parametrize("base", ["rence", "own"])
@pytest.mark.parametrize("overlay", GPU_OVERLAYS, ids=lambda path: path.stem)
def test_overlays_for_gpus_verify_the_engine_and_fuse_the_optimizer(
    base: str, overlay: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = printed_config(capfd, "fit", "--config", str(CONF / f"{base}.yaml"), "--config", str(overlay))
    assert config["old_policy"]["max_mismatch"] == 0.05
    assert config["model"]["optimizer"]["init_args"]["fused"] is True

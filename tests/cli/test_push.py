"""`push`, and the model card of `export`, on the command line."""

import json
import shutil
from pathlib import Path

import pytest
from arithmetic_run import fresh_start, make_data, make_module, make_trainer, small_evaluation
from huggingface_hub import ModelCard
from stand_in_hub import StandInHub

from rence_lightning.callbacks import Checkpoint, ExportPolicy
from rence_lightning.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("push") / "run"
    fresh_start()
    make_trainer(run_dir, [small_evaluation(), Checkpoint(), ExportPolicy()], max_iterations=1).fit(
        make_module(), make_data()
    )
    return run_dir


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    assert end.value.code == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    return line


def test_a_run_and_an_exported_checkpoint_are_pushed(
    run: Path, hub: StandInHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(run), "me/run"])
    assert capfd.readouterr().out == f"{run / 'hf'} pushed to {hub.address}/me/run\n"
    main(["export", str(run), str(tmp_path / "policy"), "--dtype", "bfloat16"])
    main(["push", str(tmp_path / "policy"), "me/policy", "--public"])
    for name, folder in (("me/run", run / "hf"), ("me/policy", tmp_path / "policy")):
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        assert files | {".gitattributes": b""} == hub.repositories[name]
    assert hub.private == {"me/run": True, "me/policy": False}
    cards = [ModelCard(hub.repositories[name]["README.md"].decode()) for name in ("me/run", "me/policy")]
    assert cards[0].data.eval_results and cards[0].data.eval_results == cards[1].data.eval_results


def test_an_export_of_a_copied_checkpoint_says_that_it_has_no_card(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "checkpoints" / "iteration-0001", tmp_path / "copies" / "iteration-0001")
    main(["export", str(tmp_path / "copies" / "iteration-0001"), str(tmp_path / "policy")])
    assert "without a model card, because" in capfd.readouterr().out
    assert (tmp_path / "policy" / "model.safetensors").exists() and not (tmp_path / "policy" / "README.md").exists()


def test_bad_arguments_are_refused_in_one_line(
    run: Path, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "holds no exported policy; give a run directory" in refused(capfd, "push", str(tmp_path), "me/sums")
    checkpoint = str(run / "checkpoints" / "last")
    assert "is a checkpoint; export it, and push the folder" in refused(capfd, "push", checkpoint, "me/sums")
    (tmp_path / "config.json").write_text("{}")
    assert "holds no exported policy" in refused(capfd, "push", str(tmp_path), "me/sums"), "a folder without weights"
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(run)}))
    assert "holds adapters of" in refused(capfd, "push", str(tmp_path), "me/sums")
    assert "'sums' is not the name of a repository" in refused(capfd, "push", str(run), "sums")
    assert "required: repository" in refused(capfd, "push", str(run))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub does not know the token" in refused(capfd, "push", str(run), "me/sums")
    assert hub.repositories == {}

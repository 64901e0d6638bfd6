"""Configurations by name: from any folder, as files, in interpolation; and what a wrong name is answered with."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CONF, config_of, error_of

from rence_lightning.cli.settings import Settings, known_names, package_configs


def test_the_names_are_those_of_the_files() -> None:
    files = {str(file.relative_to(CONF)).removesuffix(".yaml") for file in CONF.rglob("*.yaml")}
    assert package_configs().keys() == files and {"arithmetic", "paper/table1_rence"} <= files
    assert all(name.rpartition("/")[2] in known_names() for name in files)


def test_a_name_means_the_file_of_the_package_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"--config={CONF / name}.yaml" for name in ("rence", "hardware/gpu1", "paper/table1_dapo")]
    by_path = config_of("fit", *files)
    monkeypatch.chdir(tmp_path)
    names = ("--config", "rence", "-c", "hardware/gpu1", "--config=paper/table1_dapo")
    assert config_of("fit", *names) == by_path
    assert by_path["model"]["objective"]["class_path"] == "rence_lightning.objectives.DAPO"


def test_the_user_s_own_file_comes_first_and_settings_stay_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rence").write_text("data: {group_size: 3}\n")
    layers = Settings(
        ["--config", "rence", "--config=data: {group_size: 4}", "-c=own", "--data.group_size", "5"]
    ).layers
    assert [layer.origin for layer in layers] == ["rence", "--config", str(package_configs()["own"]), ""]
    assert [layers[0].settings, layers[1].settings] == [{"data": {"group_size": size}} for size in (3, 4)]
    assert (layers[3].option, layers[3].settings) == ("data.group_size", "5"), "read when its type is known"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arithmetik", ["no file arithmetik", "did you mean arithmetic?", "arithmetic, evaluate, gym, own, rence"]),
        ("hardware/gpu9", ["did you mean hardware/gpu", "fit --help lists all"]),
        ("nothing-like-it.yaml", ["there is no file nothing-like-it.yaml", "the package has arithmetic"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of(capfd, "fit", "--config", name)
    for word in words:
        assert word in error


def test_the_installed_command_names_itself() -> None:
    start = "import sys; sys.argv = ['/usr/bin/rence-lightning']"
    program = f"{start}; from rence_lightning.cli.main import main; main(['report', '-h'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: rence-lightning report ") and "\n  rence-lightning report runs" in done.stdout

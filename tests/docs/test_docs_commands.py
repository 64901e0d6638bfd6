"""Every shell command of README.md and docs/ runs here or in CI, or a line beside it says why not.

The commands of a page run in their order in a folder of their own, as they are written, with a few options behind them
that make them small. The files that the page shows (`# name.py`, `# name.yaml` in their first line) are in that folder.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import CONF, ROOT, config_of
from page_commands import all_commands, commands_of

from benchmarks.qwen3 import qwen3
from rence_lightning.cli.main import main

TINY = (
    *("--trainer.max_iterations=1", "--data.prompts_per_iteration=4", "--data.prompts_per_update=2"),
    *("--data.prompts_per_draw=8", "--evaluation.limit=8", "--evaluation.repeats=2", "--checkpoint.every=1"),
)
ONE_MORE = ("--trainer.max_iterations=2", *TINY[1:])
FEW = ("--evaluation.limit=8", "--evaluation.repeats=2")
ONE_EPOCH = ("--warmup.epochs=1", *FEW)
AS_IT_IS = ()
DEMO = "python -m rence_lightning fit --config conf/arithmetic.yaml"
PLAN = "python -m rence_lightning plan"
OWN = "python -m rence_lightning fit --config own.yaml --config reward.yaml --config conf/hardware/cpu.yaml"
COMPARE = "python -m rence_lightning compare"
EXPORT = "python -m rence_lightning export"
VALIDATE = "python -m rence_lightning validate"

RUN_HERE: dict[str, tuple[str, ...]] = {
    f"{DEMO} --data.filter.init_args.t_easy=0.99": TINY,
    f"{DEMO} --model.objective.init_args.margin=none": TINY,
    f"{DEMO} --model.objective=rence_lightning.objectives.AllPairs": TINY,
    f"{DEMO} --model.objective=rence_lightning.objectives.GRPO --data.filter=rence_lightning.sampling.NoFilter": TINY,
    f"{DEMO} --adaptive_kl.enabled=false --model.trust_region.kl_coef=0.1": TINY,
    f"{DEMO} --ckpt_path last": ONE_MORE,
    f"{DEMO} --config conf/small/lora.yaml": TINY,
    f"{DEMO} --trainer.devices 2 --trainer.strategy rence_lightning.training.FullyShardStrategy": TINY,
    f"{VALIDATE} --config a.yaml --model.policy runs/arithmetic/hf": FEW,
    f"{VALIDATE} --config conf/arithmetic.yaml --model.policy runs/arithmetic/hf": FEW,
    "python -m rence_lightning warmup --config a.yaml": ONE_EPOCH,
    "python -m rence_lightning warmup --config conf/arithmetic.yaml": ONE_EPOCH,
    f"{DEMO} --model.policy runs/arithmetic-warmup/hf --trainer.run_dir runs/warm": TINY,
    f"{COMPARE} runs/arithmetic/evaluations/iteration-0000 runs/arithmetic": AS_IT_IS,
    f"{COMPARE} runs/evaluate-validate runs/evaluate-validate-2": AS_IT_IS,
    "python -m rence_lightning report runs/arithmetic": AS_IT_IS,
    "python -m rence_lightning fit --config conf/tools.yaml": TINY,
    # docs/runs.md
    f"{DEMO} --trainer.run_dir runs/sweep --model.optimizer.init_args.lr $rate --seed_everything $seed": TINY,
    f"{COMPARE} runs/sweep*": AS_IT_IS,
    "python -m rence_lightning report runs/sweep* --output sweep.html": AS_IT_IS,
    f"{EXPORT} runs/arithmetic/checkpoints/best FOLDER": AS_IT_IS,
    f"{EXPORT} runs/arithmetic/checkpoints/best FOLDER --dtype bfloat16": AS_IT_IS,
    f"{PLAN} --config rence --gpu_memory 80": AS_IT_IS,
    f"{PLAN} --config conf/rence.yaml --gpu_memory 80": AS_IT_IS,
    # docs/tutorial.md
    "python make_problems.py": AS_IT_IS,
    "python train.py": AS_IT_IS,
    f"{PLAN} --config runs/sums/config.yaml": AS_IT_IS,
    f"{VALIDATE} --config runs/sums/config.yaml --model.policy runs/sums/hf --evaluation.repeats 16": FEW,
    "python -m rence_lightning fit --config runs/sums/config.yaml --trainer.run_dir runs/sums-grpo"
    " --model.objective rence_lightning.objectives.GRPO": AS_IT_IS,
    f"{COMPARE} runs/sums-grpo runs/sums": AS_IT_IS,
    f"{EXPORT} runs/sums/checkpoints/best sums-policy": AS_IT_IS,
    "cp conf/own.yaml own.yaml": AS_IT_IS,
    f"{OWN} --config rehearsal.yaml": TINY,
    f"{PLAN} --config own.yaml --config conf/hardware/gpu1.yaml --gpu_memory 80": AS_IT_IS,
    # docs/extending.md
    "python -m pytest test_my_objective.py": AS_IT_IS,
    f"{DEMO} --model.objective my_objective.HardestNegative --trainer.run_dir runs/hardest": TINY,
    f"{COMPARE} runs/arithmetic runs/hardest": AS_IT_IS,
}
"""Commands that this file runs, with the options that are put behind them."""

RUN_BY_MAKE = {"make demo"}
"""Run by a test of this file."""

SUBSTITUTES = {"train.py": ("max_iterations=10", "max_iterations=1")}
"""What is shortened in the files of the pages."""

LOOP = [("1e-5", "0"), ("1e-5", "1"), ("1e-3", "0")]
"""Values of `$rate` and `$seed` of the commands in a loop."""

COMMANDS = all_commands()


def test_every_command_is_run_or_says_that_it_is_not() -> None:
    silent = [
        f"{command.page}: {command.text}"
        for command in COMMANDS
        if not command.marked and command.text not in RUN_HERE and command.text not in RUN_BY_MAKE
    ]
    assert not silent, "add them to RUN_HERE, or a line such as *Not run: it needs a GPU.* beside their block"


def test_no_command_of_the_tables_has_left_the_pages() -> None:
    gone = {*RUN_HERE, *RUN_BY_MAKE} - {command.text for command in COMMANDS}
    assert not gone


def test_a_mark_is_found_on_either_side_of_a_block_and_nowhere_else() -> None:
    def marks(page: str) -> list[tuple[str, bool]]:
        return [(command.text, command.marked) for command in commands_of("page.md", page)]

    block = "```\nmake demo   # trains\npython a.py \\\n  --b 1\nan output\n```\n"
    both = ["make demo", "python a.py --b 1"]
    assert marks(f"Text.\n\n{block}\nText.\n") == [(text, False) for text in both]
    assert marks(f"{block}\n*Not run: it needs a GPU.*\n\nText.\n") == [(text, True) for text in both]
    assert marks(f"*Run on two cores\nin an hour.*\n\n{block}") == [(text, True) for text in both]
    assert marks(f"*Not run.*\n\nText.\n\n{block}") == [(text, False) for text in both]
    assert marks(f"{block}\n*Nothing* is *Run*.\n") == [(text, False) for text in both]
    assert marks("Text:\n\n    make memory\n\n```python\npython = 1\n```\n") == [("make memory", False)]
    assert marks('```\npip install "torch<3" > log\n```\n') == [('pip install "torch<3" > log', False)]
    assert marks("```text\nmake demo\n```\n```\ngit clone <here>\n```\n") == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo with one iteration."""
    run_dir = tmp_path_factory.mktemp("demo") / "arithmetic"
    main(["fit", f"--config={CONF / 'arithmetic.yaml'}", f"--trainer.run_dir={run_dir}", *TINY])
    return run_dir


@pytest.fixture
def folder(tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it: the configurations, a run of the demo under the names of the pages, and models."""
    (tmp_path / "conf").symlink_to(CONF)
    (tmp_path / "a.yaml").symlink_to(CONF / "arithmetic.yaml")
    for name in ("arithmetic", "evaluate-validate", "evaluate-validate-2"):
        shutil.copytree(demo, tmp_path / "runs" / name, symlinks=True)
    for name in ("0.6B", "4B"):
        qwen3(name).save_pretrained(tmp_path / "Qwen" / f"Qwen3-{name}")  # in place of the hub's, which has weights
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("my_objective", "my_reward"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def write_files(page: str, folder: Path) -> None:
    """Writes the files that a page shows."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, content in re.findall(r"```(?:python|yaml)\n# (\w+\.(?:py|yaml))\n(.*?)```", text, re.S):
        (folder / name).write_text(content.replace(*SUBSTITUTES.get(name, ("", ""))))


def run(command: str, options: tuple[str, ...], folder: Path) -> int:
    """Runs a command: in this process where it is one of this project, and `--trainer.devices` needs no others.

    Returns its exit code; what it printed is in pytest's report.
    """
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    words = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    if words[0] == "rence-lightning" or words[:3] == ["python", "-m", "rence_lightning"]:
        arguments = [*words[1 if words[0] == "rence-lightning" else 3 :], *options]
        if "--trainer.devices" in arguments:
            return in_a_process([sys.executable, "-m", "rence_lightning", *arguments], folder)
        try:
            main(arguments)
        except SystemExit as end:
            return int(end.code or 0)
        return 0
    if words[0] == "python" and words[1].endswith(".py"):
        runpy.run_path(words[1], run_name="__main__")
        return 0
    return in_a_process([sys.executable if words[0] == "python" else words[0], *words[1:]], folder)


def in_a_process(command: list[str], folder: Path) -> int:
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(done.stdout[-1000:], done.stderr[-2000:])
    return done.returncode


PAGES = list(dict.fromkeys(command.page for command in COMMANDS if command.text in RUN_HERE))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, folder: Path) -> None:
    if page in ("configuration.md", "scaling.md"):
        pytest.importorskip("peft", reason=f"a command of {page} trains adapters")
    write_files("README.md" if page == "README.md" else f"docs/{page}", folder)
    for command in COMMANDS:
        if command.page == page and command.text in RUN_HERE:
            for rate, seed in LOOP if "$rate" in command.text else [("", "")]:
                text = command.text.replace("$rate", rate).replace("$seed", seed)
                assert run(text, RUN_HERE[command.text], folder) == 0, text


def test_the_command_of_a_sweep_by_wandb_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options as W&B's own code writes them from the file of the page."""
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    files = dict(re.findall(r"```ya?ml\n# (\w+\.yaml)\n(.*?)```", (ROOT / "docs/runs.md").read_text(), re.S))
    sweep = yaml.safe_load(files["sweep.yaml"])
    values = {key: {"value": each.get("min") or each["values"][0]} for key, each in sweep["parameters"].items()}
    options = sweeps.create_sweep_command_args({"args": values})["args"]
    command = [*sweep["command"][5:-2], f"--config={files['wandb.yaml']}", *options]
    assert sweep["command"][:5] == ["${env}", "python", "-m", "rence_lightning", "fit"]
    monkeypatch.chdir(ROOT)
    config = config_of("fit", *command)
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-6 and config["data"]["group_size"] == 4
    assert config["trainer"]["loggers"][0]["class_path"].endswith("WandbLogger")


@pytest.mark.slow
def test_the_files_of_a_run_are_those_that_the_page_lists(demo: Path) -> None:
    listed = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8").split("```\nruns/arithmetic/\n")[1].split("```")[0]
    assert {file.name for file in demo.iterdir()} <= set(re.findall(r"^  ([\w.]+)/? ", listed, re.M))


@pytest.mark.slow
def test_the_python_of_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    assert len([line for line in task.splitlines() if line]) <= 12, "ten lines and their imports"
    exec(task.replace("=10", "=1"), {"__name__": "__main__"})
    assert (tmp_path / "runs" / "sum" / "hf" / "model.safetensors").exists()


@pytest.mark.slow
def test_make_demo_trains(tmp_path: Path) -> None:
    """In an environment that `make` finds installed, whose Python makes the run small."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    options = shlex.join([*TINY, f"--trainer.run_dir={tmp_path / 'run'}"])
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@" {options}\n')
    python.chmod(0o755)
    for stamp in (".torch", ".installed"):
        (tmp_path / "venv" / stamp).touch()
    assert in_a_process(["make", "demo", f"VENV={tmp_path / 'venv'}"], ROOT) == 0
    assert (tmp_path / "run" / "hf" / "model.safetensors").exists()

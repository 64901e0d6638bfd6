"""Every example of docs/extending.md runs, in one process and in two, and does what the page says."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import CONF, ROOT
from graded_groups import graded
from objective_groups import random_groups
from safetensors.torch import load_file

from rence_lightning.cli.main import main
from rence_lightning.objectives import MultiLabelNCE, ResponseTensors, Totals
from rence_lightning.rewards import Response, Score
from rence_lightning.sampling import (
    GradedGroup,
    Judgement,
    Outcome,
    PositiveRatioFilter,
    WithoutTruncated,
)

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES: dict[str, str] = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", PAGE, re.S))
SETTINGS: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)

SMALL = [
    *("--trainer.max_iterations=1", "--evaluation.every=0", "--data.group_size=4", "--data.max_draws_per_iteration=40"),
    *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--data.prompts_per_draw=8"),
]


def settings_of(name: str) -> str:
    """The YAML of the page that names a class or function of its modules."""
    (text,) = [text for text in SETTINGS if name in text]
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules of the page and problems of one's own, as the current folder."""
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    numbers = [divmod(number, 10) for number in range(100, 300)]
    rows = [{"question": f"{a}+{b}=?", "solution": {"value": a + b}, "difficulty": b / 9} for a, b in numbers]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def example(folder: Path, *names: str) -> list[str]:
    """The arguments that add the page's settings for these classes or functions to the demo."""
    files = []
    for number, name in enumerate(names):
        (folder / f"example-{number}.yaml").write_text(settings_of(name))
        files.append(f"--config={folder / f'example-{number}.yaml'}")
    return ["fit", f"--config={CONF / 'arithmetic.yaml'}", *files, f"--trainer.run_dir={folder / 'run'}", *SMALL]


def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "run" / "rollouts" / "iteration-0001.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_page_has_an_example_of_each_part_and_all_of_them_are_used_here() -> None:
    assert len(MODULES) == 8
    source = Path(__file__).read_text()
    for name, module in MODULES.items():
        assert name in source, name
        for defined in re.findall(r"^(?:def|class) (\w+)", module, re.M):
            assert defined in source, f"{name}.{defined} is never run"


def test_rewards_and_filters_are_short() -> None:
    for module in ("my_rewards", "my_reward_class", "my_filter"):
        for body in re.split(r"\n\n\n", MODULES[module]):
            if body.lstrip().startswith(("def", "class")):
                assert len(body.strip().splitlines()) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("function", ["by_difficulty", "brief", "sound"])
def test_a_function_as_a_reward(function: str, folder: Path) -> None:
    """In a run on problems with columns of their own, the logged rewards are those that its docstring states."""
    arguments = example(folder, "my_rewards.by_difficulty", "FileProblems")
    main([*arguments, f"--data.reward.init_args.function=my_rewards.{function}", "--data.filter.init_args.t_easy=0.9"])
    difficulty = {
        line["question"]: line["difficulty"]
        for line in map(json.loads, (folder / "problems.jsonl").read_text().splitlines())
    }
    for row in rows(folder):
        for response in row["responses"]:
            right = response["text"].endswith(rf"\boxed{{{row['gold']}}}")
            steps = re.findall(r"(\d+)\+(\d+)=(\d+)", response["text"])
            expected = {
                "by_difficulty": right * (0.5 + 0.5 * difficulty[row["problem"]]),
                "brief": right * (1 - response["tokens"] / 128),
                "sound": sum(int(a) + int(b) == int(c) for a, b, c in steps) / max(len(steps), 1),
            }
            assert response["reward"] == pytest.approx(expected[function])
            assert response["correct"] == (response["reward"] >= 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("my_reward_class.Closeness",),
        ("my_filter.CompleteOnly",),
        ("my_objective.UnlikelihoodOfWrong",),
        ("my_callback.Longest",),
        ("my_problems.Doubles",),
        ("my_template.Worked",),
        ("my_engine.OneByOne",),
    ],
)
def test_a_class_of_ones_own(names: tuple[str, ...], folder: Path) -> None:
    main([*example(folder, *names), "--data.max_prompt_tokens=64"])
    written = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert names[0] in json.dumps(written), "the run's configuration names the class"
    if names == ("my_callback.Longest",):
        line = json.loads((folder / "run" / "longest.jsonl").read_text())
        assert line["tokens"] == max(r["tokens"] for row in rows(folder) for r in row["responses"] if r["correct"])
        header, *_ = (folder / "run" / "metrics.csv").read_text().splitlines()
        assert {"rollouts/longest_correct", "train/positives"} <= set(header.split(","))
    if names == ("my_engine.OneByOne",):
        with (folder / "run" / "metrics.csv").open() as file:
            differences = [row["rollouts/mismatch_abs_max"] for row in csv.DictReader(file)]
        assert 0 < max(float(each) for each in differences if each) < 1e-4


OFTEN_CUT = """
from rence_lightning.sampling import Judgement, PositiveRatioFilter


class LeavesOut(PositiveRatioFilter):
    def judge(self, group):  # leaves a few responses out of nearly every group
        kept = [sum(response.token_ids) % 3 > 0 for response in group.responses]
        if sum(kept) < 2:
            return super().judge(group)
        rest = super().judge(group.only(kept))
        positive = iter(rest.positive)
        return Judgement(rest.outcome, tuple(k and next(positive) for k in kept), tuple(not k for k in kept))
"""


@pytest.mark.slow
def test_all_together_in_two_processes_are_as_in_one(folder: Path) -> None:
    """Own reward, filter, problems and objective: the groups, the losses of four updates and the policy are those of
    one process, also where the filter leaves responses out of nearly every group."""
    (folder / "my_leaving_filter.py").write_text(OFTEN_CUT)
    given = ["my_rewards.by_difficulty", "FileProblems", "my_objective.Unlikelihood"]
    logged, losses, weights = [], [], []
    for devices in (1, 2):
        run_dir = folder / f"run-of-{devices}"
        arguments = [*example(folder, *given), f"--trainer.run_dir={run_dir}", f"--trainer.devices={devices}"]
        arguments += ["--data.filter=my_leaving_filter.LeavesOut", "--data.filter.init_args.t_easy=0.9"]
        arguments += [
            "--data.prompts_per_iteration=8",
            "--data.group_size=8",
            "--data.reward.init_args.correct_from=0.1",
        ]
        program = [sys.executable, "-m", "rence_lightning", *arguments]
        done = subprocess.run(program, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        logged.append((run_dir / "rollouts" / "iteration-0001.jsonl").read_text())
        with (run_dir / "metrics.csv").open() as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
        weights.append(load_file(run_dir / "hf" / "model.safetensors"))
    assert logged[0] == logged[1] and logged[0].count('"dropped": true') > 8
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_processes_with_other_problems_are_refused(folder: Path) -> None:
    """Each process of a run draws its own problems where a source does not fix its seed."""
    source = MODULES["my_problems"].replace("random.Random(self.seed)", "random.Random()")
    (folder / "my_problems.py").write_text(source)
    arguments = [*example(folder, "my_problems.Doubles"), "--trainer.devices=2", "--data.max_prompt_tokens=64"]
    program = [sys.executable, "-m", "rence_lightning", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "data: training problems differ between processes" in line


def load(module: str, name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(MODULES[module], namespace)
    return namespace[name]


def test_the_filter_of_the_page_is_the_one_of_the_package() -> None:
    ours = WithoutTruncated(PositiveRatioFilter(t_easy=1.0, t_master=1.0))
    theirs = load("my_filter", "CompleteOnly")()
    for correct in range(16):
        for cut in range(16):
            verdicts = [bool(correct >> i & 1) for i in range(4)]
            truncated = [bool(cut >> i & 1) for i in range(4)]
            group = graded([float(verdict) for verdict in verdicts], verdicts, truncated)
            one, other = ours.judge(group), theirs.judge(group)
            if not all(truncated):
                assert one.outcome is other.outcome
            if one.outcome is Outcome.KEPT:
                assert (one.positive, one.dropped) == (other.positive, other.dropped)


def test_the_tables_name_the_fields_that_exist() -> None:
    for kind, heading in (
        (Response, "## Reward"),
        (Score, "field of `Score`"),
        (GradedGroup, "## Filter"),
        (Judgement, "## Filter"),
        (ResponseTensors, "## Objective"),
        (Totals, "## Objective"),
    ):
        fields: dict[str, object] = kind.__dataclass_fields__  # type: ignore[attr-defined]
        section = PAGE.split(heading, 1)[1]
        assert all(f"`{field}`" in section or f"`{field}." in section for field in fields), (kind, heading)


def test_sharper_is_the_loss_at_half_the_temperature() -> None:
    responses = random_groups()
    totals = Totals(len(responses.positive), responses.positive.numel(), int(responses.mask.sum()), 1)
    sharper = load("my_objective", "Sharper")(beta=0.1, alpha=0.5).loss(responses, totals)
    torch.testing.assert_close(sharper, MultiLabelNCE(beta=0.2, alpha=1.0).loss(responses, totals))

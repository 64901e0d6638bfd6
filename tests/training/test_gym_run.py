"""conf/gym.yaml trains: an iteration, alone and with a mixture of tasks that gives partial credit."""

import json
from pathlib import Path

import pytest
from command_line import CONF

from rence_lightning.cli.main import main

SMALL = (
    *("--trainer.max_iterations=1", "--data.prompts_per_iteration=4", "--data.prompts_per_update=2"),
    *("--evaluation.repeats=1", "--evaluation.limit=20"),
)


def groups_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "rollouts" / "iteration-0001.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_one_iteration_of_the_configuration(tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(["fit", f"--config={CONF / 'gym.yaml'}", f"--trainer.run_dir={run}", *SMALL])
    (before, after) = map(json.loads, (run / "evaluations.jsonl").read_text().splitlines())
    assert (before["iteration"], after["iteration"]) == (0, 1)
    assert 0.02 < before["benchmarks"]["basic_arithmetic"]["avg"] < 0.5
    outcomes = [group["outcome"] for group in groups_of(run)]
    assert outcomes.count("kept") == 4


@pytest.mark.slow
def test_a_mixture_with_partial_credit(tmp_path: Path) -> None:
    """No answer of spell_backward is right, so that partial credit alone makes positives."""
    tasks = {
        "basic_arithmetic": {"weight": 1, "settings": {"max_terms": 2, "max_digits": 1, "operators": ["+"]}},
        "spell_backward": {"weight": 1, "settings": {"max_word_len": 4}},
    }
    (tmp_path / "mixture.yaml").write_text(
        "data:\n  problems:\n    - class_path: rence_lightning.prompts.GymProblems\n"
        f"      init_args: {{tasks: {json.dumps(tasks)}, size: 40, instruction: ''}}\n"
        "  filter: {init_args: {positives: best, t_easy: 0.9, t_master: 1.0}}\n"
        "evaluation: {every: 0}\n"
    )
    run = tmp_path / "run"
    configs = (f"--config={CONF / 'gym.yaml'}", f"--config={tmp_path / 'mixture.yaml'}")
    draw = ("--data.prompts_per_draw=40", "--data.max_draws_per_iteration=1")
    main(["fit", *configs, f"--trainer.run_dir={run}", *draw, *SMALL])
    sources = {str(group["id"]).partition("/")[0] for group in groups_of(run)}
    assert sources == {"basic_arithmetic", "spell_backward"}

"""conf/gym.yaml trains with a mixture of tasks, one of which gives partial credit."""

import json
from pathlib import Path

import pytest
from command_line import CONF

from rence_lightning.cli.main import main

SMALL = (
    *("--trainer.max_iterations=1", "--data.prompts_per_iteration=4", "--data.prompts_per_update=2"),
    *("--evaluation.repeats=1", "--evaluation.limit=20"),
)


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
    groups = map(json.loads, (run / "rollouts" / "iteration-0001.jsonl").read_text().splitlines())
    sources = {group["id"].partition("/")[0] for group in groups}
    assert sources == {"basic_arithmetic", "spell_backward"}

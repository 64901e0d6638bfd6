"""A small run that skips prompts: it shows in the log, and a resumed run equals the uninterrupted one."""

import csv
import json
from pathlib import Path
from typing import Any

from arithmetic_run import assert_same, fresh_start, make_data, make_module, make_trainer, state_of

from rence_lightning.callbacks import Checkpoint
from rence_lightning.prompts import ArithmeticProblems
from rence_lightning.sampling import GRESOSkipping, ZeroVarianceFilter
from rence_lightning.sampling.datamodule import RolloutDataModule
from rence_lightning.training.trainer import Trainer


def skipping_data(**settings: Any) -> RolloutDataModule:
    settings = {
        "problems": [ArithmeticProblems("train", count=24)],
        "filter": ZeroVarianceFilter(),
        "skipping": GRESOSkipping(p_easy=0.05, p_hard=0.06),
        "group_size": 3,
        "prompts_per_iteration": 3,
        "prompts_per_update": 3,
        "prompts_per_draw": 6,
        **settings,
    }
    return make_data(**settings)


def run(run_dir: Path, iterations: int, ckpt_path: str | None = None, **settings: Any) -> Trainer:
    fresh_start()
    trainer = make_trainer(run_dir, [Checkpoint(every=100)], max_iterations=iterations)
    trainer.fit(make_module(), skipping_data(**settings), ckpt_path=ckpt_path)
    return trainer


def column(run_dir: Path, name: str) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_resumed_run_skips_like_the_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 5)
    run(tmp_path / "parts", 8, ckpt_path="last")
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    for state in (whole, parts):
        state[0]["run"]["callbacks"].pop("Checkpoint")  # knows when it saved
    assert_same(whole, parts)
    assert whole[0]["run"]["data"]["pool"]["skipping"]["state"]["streaks"]
    for name in ("prompts_skipped", "p_easy", "p_hard", "responses_total", "groups_sampled"):
        figures = column(tmp_path / "whole", f"rollouts/{name}")
        assert len(figures) == 8
        assert figures == column(tmp_path / "parts", f"rollouts/{name}"), name
    assert sum(column(tmp_path / "whole", "rollouts/prompts_skipped")) > 0
    assert len(set(column(tmp_path / "whole", "rollouts/p_hard"))) > 1, "p_hard never moved"


def test_responses_are_counted_and_skipping_is_silent_when_absent(tmp_path: Path) -> None:
    trainer = run(tmp_path / "run", 2, skipping=None)
    total = column(tmp_path / "run", "rollouts/responses_total")
    groups = column(tmp_path / "run", "rollouts/groups_sampled")
    assert total == [3 * groups[0], 3 * (groups[0] + groups[1])]
    assert trainer.datamodule.responses_total == total[1]
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "responses_total" in header
    assert not any(name in header for name in ("prompts_skipped", "p_easy", "p_hard"))


def test_runs_do_not_share_what_they_learn_of_prompts(tmp_path: Path) -> None:
    given = GRESOSkipping(p_easy=0.05, p_hard=0.06)
    before = given.state_dict()
    first = run(tmp_path / "first", 2, skipping=given)
    assert first.datamodule.pool.state_dict()["skipping"]["state"]["streaks"], "nothing was recorded"
    assert given.state_dict() == before


def test_every_sampled_group_is_recorded(tmp_path: Path) -> None:
    """Uninformative groups in a row, counted again from the run's log of rollouts."""
    trainer = run(tmp_path / "run", 4)
    streaks: dict[str, tuple[int, int]] = {}
    for path in sorted((tmp_path / "run" / "rollouts").iterdir()):
        for row in map(json.loads, path.read_text().splitlines()):
            right = sum(response["correct"] for response in row["responses"])
            if 0 < right < 3:
                streaks.pop(row["id"], None)
            else:
                streaks[row["id"]] = (streaks.get(row["id"], (0, 0))[0] + 1, int(right == 3))
    data = trainer.datamodule
    recorded = data.pool.state_dict()["skipping"]["state"]["streaks"]
    assert {data.prompts[index].problem.id: (streak, easy) for index, streak, easy in recorded} == streaks
    assert streaks

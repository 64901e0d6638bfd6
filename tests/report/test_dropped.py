"""What the report says was dropped, against counts made by hand and against the log of a run's groups."""

import json
from collections import Counter
from pathlib import Path

from arithmetic_run import fresh_start, make_data, make_module, make_trainer

from rence_lightning.report.dropped import account
from rence_lightning.report.run_record import RunRecord

HEADER = (
    "iteration,step,rollouts/groups_sampled,rollouts/groups_trained,rollouts/share_kept,rollouts/share_too_easy,"
    "rollouts/share_too_hard,rollouts/share_mastered,rollouts/responses_total,rollouts/truncated,rollouts/answered,"
    "rollouts/responses_discarded,rollouts/grading_timeouts,rollouts/grading_crashes,train/updates_skipped,train/loss,"
    "train/responses"
)
CONFIG = "data: {group_size: 4, filter: {init_args: {t_hard: 0.0, t_easy: 0.5, t_master: 0.8}}}\n"


def by_hand(run_dir: Path) -> Path:
    """Two iterations of 10 and 20 groups of 4 responses, of which one update was skipped."""
    rows = [
        "1,1,,,,,,,,,,,,,,0.5,7",
        "1,2,,,,,,,,,,,,,,0.5,8",
        "1,2,10,4,0.4,0.1,0.5,0,40,0.25,0.5,3,0,0,0,,",
        "2,3,,,,,,,,,,,,,,nan,16",
        "2,3,20,4,0.2,0.3,0.25,0.25,120,0.05,1,0,2,1,1,,",
    ]
    (run_dir / "metrics.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (run_dir / "config.yaml").write_text(CONFIG)
    problems = {"problems": 200, "kept": 190, "dropped": {"duplicate": 7, "contaminated": 3}, "too_long": 5}
    (run_dir / "training_problems.json").write_text(json.dumps(problems))
    return run_dir


def test_the_numbers_are_those_of_the_rows(tmp_path: Path) -> None:
    counted = account(RunRecord(by_hand(tmp_path)))
    assert (counted.sampled, counted.trained) == (30, 8)
    assert {(row.what, row.count, row.whole) for row in counted.rows} == {
        ("training problems", 7, 200),
        ("training problems", 3, 200),
        ("training problems", 5, 200),
        ("groups, too easy", 1 + 6, 30),
        ("groups, too hard", 5 + 5, 30),
        ("groups, mastered", 5, 30),
        ("responses, cancelled", 3, 0),
        ("responses, truncated", 10 + 4, 120),
        ("responses without an answer", 20, 120),
        ("responses, left out", 32 - 31, 32),
        ("responses, not graded", 3, 120),
        ("updates, skipped", 1, 3),
    }
    assert counted.summary() == (
        "8 of 30 sampled groups (27%) were trained on; 7 too easy, 10 too hard, 5 mastered. 15 training problems were "
        "left out."
    )


def test_reasons_name_the_thresholds_of_the_run(tmp_path: Path) -> None:
    reasons = {row.what: row.why for row in account(RunRecord(by_hand(tmp_path))).rows}
    assert reasons["groups, too easy"] == "more than 50% of the responses are correct"
    assert reasons["groups, too hard"] == "none of the responses is correct"
    assert reasons["groups, mastered"] == "more than 80% are correct: the prompt leaves the pool"


def test_a_skipped_update_is_counted_where_the_run_did_not_count_it(tmp_path: Path) -> None:
    rows = ["iteration,step,train/loss,train/grad_norm", "1,1,0.5,1.0", "1,2,nan,nan", "2,3,0.5,inf"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    record = RunRecord(tmp_path)
    assert (record.updates_skipped, record.updates) == (2, 3)


def test_the_groups_are_those_of_the_log(tmp_path: Path) -> None:
    fresh_start()
    make_trainer(tmp_path / "run", max_iterations=3).fit(make_module(), make_data())
    record = RunRecord(tmp_path / "run")
    outcomes = Counter(group["outcome"] for number in record.rollout_files for group in record.groups(number))
    counted = account(record)
    assert counted.sampled == outcomes.total() and counted.trained == outcomes["kept"]
    for name in ("too_easy", "too_hard", "mastered"):
        assert counted.count(f"groups, {name.replace('_', ' ')}") == outcomes[name]


def test_prompts_that_are_too_long_are_counted_in_the_run_directory(tmp_path: Path) -> None:
    fresh_start()
    data = make_data(max_prompt_tokens=11)
    make_trainer(tmp_path / "run", max_iterations=1).fit(make_module(), data)
    assert 0 < data.dropped_too_long < 2000
    rows = {row.why: row.count for row in account(RunRecord(tmp_path / "run")).rows}
    assert rows["longer than data.max_prompt_tokens"] == data.dropped_too_long

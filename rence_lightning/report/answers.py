"""The answers at the top of the page, in a sentence or two each."""

import shlex
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rence_lightning.evaluation import EvaluatedProblem
from rence_lightning.prompts.cleaning import REASONS
from rence_lightning.report.checks import Finding
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
    interval = f"95% interval {100 * change.low:+.1f} to {100 * change.high:+.1f}"
    zero = "" if change.sure else ", which contains zero"
    return f"{word}: {went} ({100 * (after - before):+.1f} points, {interval}{zero})."


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


def what_next(run: RunRecord, findings: Sequence[Finding]) -> str:
    """What to do after the run: what the checks advise, else the use of the exported policy."""
    if advice := [each.advice for each in findings if each.advice]:
        return advice[0]
    if (policy := run.path / "hf").exists() and run.identity.command == "warmup":
        return f"Go on from it: fit with the same configuration, and --model.policy {policy}"
    if policy.exists():
        return f"Use {policy} with transformers or vLLM; publish it with: hf upload USER/NAME {policy}"
    return f"Compare it with another run: python -m rence_lightning report {shlex.quote(str(run.path))} ANOTHER"

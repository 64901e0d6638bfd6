"""What to do after a run: what its own figures call for, each with the command to type."""

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice

from rence_lightning.report.checks import Finding, in_points, recent
from rence_lightning.report.run_record import RunRecord

Step = tuple[str, str]
"""The figures that call for a step, and its command (empty where there is none)."""

HARDER = "[{class_path: rence_lightning.prompts.FileProblems, init_args: {path: HARDER.jsonl}}]"


def next_steps(run: RunRecord, findings: Sequence[Finding]) -> list[Step]:
    """At most three steps after a run: what the checks advise, else what its figures call for."""
    if advice := [(each.advice, "") for each in findings if each.advice]:
        return advice[:3]
    if run.running and not run.at_end:
        return [("The run is in progress; this writes the page again:", _command("report", str(run.path)))]
    steps = list(islice(_called_for(run), 3)) if run.is_fit else []
    return steps or [("Compare it with another run:", f"{_command('report', str(run.path))} ANOTHER")]


def _command(*words: str) -> str:
    return shlex.join(["python", "-m", "rence_lightning", *words])


def _called_for(run: RunRecord) -> Iterator[Step]:
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
        start = ("--model.policy", str(policy)) if policy.exists() else ()
        yield (f"{text}. With harder problems:", _command(*again, *start, "--data.problems", HARDER))
    if (change := run.change()) is not None and isinstance(seed, int):
        text = f"This is one seed: {in_points(change)}, without the variation between seeds. Another seed beside it:"
        second = _command(*again, "--seed_everything", str(seed + 1), "--trainer.run_dir", other)
        yield (text, f"{second} && {_command('report', str(run.path), other)}")
    if policy.exists():
        upload = shlex.join(["hf", "upload", "USER/NAME", str(policy)])
        yield (f"Use {policy} with transformers or vLLM; to publish it:", upload)

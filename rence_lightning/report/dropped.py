"""What a run did not train on, with numbers: problems, groups, responses and updates."""

from dataclasses import dataclass

from rence_lightning.prompts.cleaning import REASONS
from rence_lightning.report.run_record import RunRecord


@dataclass(frozen=True)
class Dropped:
    """Something that was not trained on.

    Attributes:
        what: What it is.
        count: Number of them.
        whole: Number out of which they are.
        why: Reason.
    """

    what: str
    count: int
    whole: int
    why: str

    @property
    def share(self) -> str:
        """The share in words, empty where the whole is not known."""
        return f"{self.count / self.whole:.1%} of {self.whole:,}" if self.whole else ""


@dataclass(frozen=True)
class Account:
    """What became of everything that was sampled.

    Attributes:
        sampled: Number of sampled groups.
        trained: Number of groups that were trained on.
        rows: What was not, by what it is.
    """

    sampled: int
    trained: int
    rows: list[Dropped]

    def count(self, what: str) -> int:
        return sum(row.count for row in self.rows if row.what == what)

    def summary(self) -> str:
        """The answer in one or two sentences; empty where nothing was sampled."""
        if not self.sampled:
            return ""
        names = ("too easy", "too hard", "mastered")
        others = ", ".join(f"{self.count(f'groups, {name}'):,} {name}" for name in names)
        lost = sum(row.count for row in self.rows if row.what.startswith("training problems"))
        kept = (
            f"{self.trained:,} of {self.sampled:,} sampled groups ({self.trained / self.sampled:.0%}) were trained on"
        )
        return f"{kept}; {others}. {f'{lost:,}' if lost else 'No'} training problems were left out."


def account(run: RunRecord) -> Account:
    """The numbers over the whole run; empty where nothing was sampled."""
    sampled = {x: round(count) for x, count in run.series("rollouts/groups_sampled")}
    outcomes = dict.fromkeys(("kept", "too_easy", "too_hard", "mastered"), 0)
    for name in outcomes:
        outcomes[name] = sum(round(share * sampled.get(x, 0)) for x, share in run.series(f"rollouts/share_{name}"))
    groups = sum(sampled.values())
    return Account(groups, round(run.total("rollouts/groups_trained") or outcomes["kept"]), [
        *_problems(run), *_groups(run, groups, outcomes), *_responses(run), *_updates(run)
    ])  # fmt: skip


def _problems(run: RunRecord) -> list[Dropped]:
    whole = int(run.training_problems.get("problems", 0))
    reasons = {**run.training_problems.get("dropped", {}), "too_long": run.training_problems.get("too_long", 0)}
    rows = [
        Dropped("training problems", count, whole, REASONS.get(reason, reason))
        for reason, count in reasons.items()
        if count
    ]
    skipped = run.values("rollouts/prompts_skipped")
    if skipped and skipped[-1]:
        rows.append(Dropped("prompts, skipped", round(skipped[-1]), whole, "earlier groups were uninformative"))
    return rows


def _groups(run: RunRecord, groups: int, outcomes: dict[str, int]) -> list[Dropped]:
    reasons = {
        "too_easy": _threshold(run, "t_easy", "more than {} of the responses are correct", "too many are correct"),
        "too_hard": _threshold(run, "t_hard", "at most {} of the responses are correct", "too few are correct"),
        "mastered": _threshold(run, "t_master", "more than {} are correct: the prompt leaves the pool", "mastered"),
    }
    return [
        Dropped(f"groups, {name.replace('_', ' ')}", outcomes[name], groups, why)
        for name, why in reasons.items()
        if groups
    ]


def _threshold(run: RunRecord, name: str, text: str, otherwise: str) -> str:
    value = run.setting(f"data.filter.init_args.{name}")
    if name == "t_hard" and value == 0:
        return "none of the responses is correct"
    return text.format(f"{value:.0%}") if isinstance(value, int | float) else otherwise


def _responses(run: RunRecord) -> list[Dropped]:
    responses = max(run.values("rollouts/responses_total"), default=0.0)
    whole = round(responses)
    size = run.setting("data.group_size")
    trained = run.total("train/responses")
    of_groups = (run.total("rollouts/groups_trained") or 0) * size if isinstance(size, int) else 0
    rows = [
        ("responses, cancelled", run.total("rollouts/responses_discarded"), 0, "the batch was complete without them"),
        ("responses, truncated", _weighted(run, "rollouts/truncated"), whole, "reached the length limit"),
        ("responses without an answer", _weighted(run, "rollouts/answered", inverse=True), whole, "no final answer"),
        (
            "responses, left out",
            of_groups - trained if trained else 0,
            round(of_groups),
            "by the filter, of groups kept",
        ),
        ("responses, not graded", run.grading_failures, whole, "grading crashed or took too long"),
    ]
    return [Dropped(what, round(count), of, why) for what, count, of, why in rows if count and round(count) > 0]


def _weighted(run: RunRecord, name: str, inverse: bool = False) -> float:
    """The number of responses of which a series gives the share in each iteration."""
    totals = run.series("rollouts/responses_total")
    before = 0.0
    count = 0.0
    shares = dict(run.series(name))
    for x, total in totals:
        if x in shares:
            count += (total - before) * (1 - shares[x] if inverse else shares[x])
        before = total
    return count


def _updates(run: RunRecord) -> list[Dropped]:
    count = run.updates_skipped
    return [Dropped("updates, skipped", count, run.updates, "loss or gradient was not finite")] if count else []

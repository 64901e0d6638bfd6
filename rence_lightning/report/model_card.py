"""The model card of an exported policy: what it was trained from, how, on what, and what it solves."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rence_lightning.evaluation import BENCHMARKS, Difference
from rence_lightning.report.card_facts import CardFacts
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run, SavedAt

if TYPE_CHECKING:  # `huggingface_hub` takes half a second to import: a report needs none of it
    from huggingface_hub import EvalResult, ModelCardData

CARD = "README.md"


def write_model_card(folder: Path, run_dir: Path, saved: SavedAt, repository: str | None = None) -> Path:
    """Writes the model card of an exported policy, from what its run directory holds.

    Args:
        folder: Folder with the exported policy.
        run_dir: Run directory of `fit`.
        saved: Moment of training that the policy is from.
        repository: Repository on the Hugging Face hub that the folder is meant for, as `user/name`.

    Returns:
        The file written.

    Raises:
        UserError: `run_dir` is not a run directory, or a file in it cannot be read.
    """
    file = folder / CARD
    text = model_card(CardFacts(RunRecord(run_dir), saved, folder), repository)
    file.write_text(text, encoding="utf-8", errors="replace")  # a problem may hold lone surrogates, as JSON can
    return file


def describe_checkpoint(folder: Path, checkpoint: Path) -> Path | None:
    """Writes the model card of a policy that was exported from a checkpoint, from the run that it is in.

    Args:
        folder: Folder with the exported policy.
        checkpoint: Folder of the checkpoint.

    Returns:
        The file written; None if the checkpoint is a copy outside of its run.

    Raises:
        UserError: A file of the run cannot be read.
    """
    saved, run = SavedAt.read(checkpoint), Run.open(checkpoint.parents[1])
    if run is None or run.id != saved.run:
        return None
    return write_model_card(folder, run.directory, saved)


def model_card(facts: CardFacts, repository: str | None = None) -> str:
    """The text of a model card: front matter for the hub, and Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rence_lightning.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": _percent,
        "cell": _cell,
        "accuracy": _accuracy,
        "change": _change,
        "python": repr,
    }
    text = environment.get_template("model_card.md.j2").render(facts=facts, repository=repository)
    return f"---\n{card_data(facts).to_yaml()}\n---\n\n{text}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _accuracy(figures: Mapping[str, float]) -> str:
    """avg@k and its interval, in percent."""
    interval = f" ({_percent(figures['avg_low'])} to {_percent(figures['avg_high'])})" if "avg_low" in figures else ""
    return _percent(figures["avg"]) + interval


def _change(difference: Difference) -> str:
    """A difference and its interval, in points."""
    shown = [f"{100 * share:+.1f}" for share in (difference.b - difference.a, difference.low, difference.high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def _cell(text: str) -> str:
    """Text that does not end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def card_data(facts: CardFacts) -> "ModelCardData":
    """The front matter: what the hub indexes and shows beside the card."""
    from huggingface_hub import ModelCardData

    base = facts.base if facts.base is not None and facts.base_on_hub else None
    return ModelCardData(
        model_name=facts.name,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=base,
        base_model_relation=None if base is None else "adapter" if facts.is_adapter else "finetune",
        datasets=facts.hub_data_sets or None,
        tags=["rence-lightning", "reinforcement-learning", "rlvr"],
        eval_results=[_eval_result(facts, name, figures) for name, figures in (facts.after or {}).items()] or None,
    )


def _eval_result(facts: CardFacts, name: str, figures: Mapping[str, float]) -> "EvalResult":
    from huggingface_hub import EvalResult

    known = BENCHMARKS.get(name)
    how: dict[str, Any] = {"repeats": facts.repeats, "temperature": facts.temperature}
    if "avg_low" in figures:
        how["interval_95"] = [round(figures[end], 4) for end in ("avg_low", "avg_high")]
    return EvalResult(
        task_type="text-generation",
        dataset_type=known.hub if known is not None else name,
        dataset_name=name,
        dataset_split=known.split if known is not None else None,
        metric_type="accuracy",
        metric_name=facts.accuracy,
        metric_value=round(figures["avg"], 4),
        metric_args={key: value for key, value in how.items() if value is not None} or None,
    )

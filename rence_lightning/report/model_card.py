"""The model card of an exported policy: what it was trained from, how, on what, and what it solves."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rence_lightning.evaluation import BENCHMARKS
from rence_lightning.prompts.template import PAPER_TEMPLATE, PromptTemplate
from rence_lightning.report.answers import in_words, method, problems_kept
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run, SavedAt

if TYPE_CHECKING:  # `huggingface_hub` takes half a second to import
    from huggingface_hub import ModelCard, ModelCardData


def write_model_card(folder: Path, run_dir: Path, saved: SavedAt) -> Path:
    """Writes the model card of a policy that was exported to `folder`, from what its run directory holds; returns the
    file.

    Raises:
        UserError: `run_dir` is not a run directory, or a file in it cannot be read.
    """
    file = folder / "README.md"
    text = str(model_card(folder, RunRecord(run_dir), saved))
    file.write_text(text, encoding="utf-8", errors="replace")  # a problem may hold lone surrogates, as JSON can
    return file


def describe_checkpoint(folder: Path, checkpoint: Path) -> Path | None:
    """Writes the model card of a policy that was exported from a checkpoint; None for a copy outside of its run."""
    saved, run = SavedAt.read(checkpoint), Run.open(checkpoint.parents[1])
    return write_model_card(folder, run.directory, saved) if run is not None and run.id == saved.run else None


def model_card(folder: Path, run: RunRecord, saved: SavedAt) -> "ModelCard":
    """The model card of a policy: front matter for the hub, and Markdown."""
    from huggingface_hub import ModelCard

    adapter = (folder / "adapter_config.json").exists()
    base = str(run.setting("model.policy") or "unknown")
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) is not None and not Path(base).exists()
    figures = {line["iteration"]: line["benchmarks"] for line in run.evaluations}
    evaluated = figures.get(saved.iteration, {}) if not saved.update else {}
    trained, chosen = [iteration for iteration in figures if iteration], run.setting("export.which") == "best"
    template = run.described.settings if run.described is not None else _configured_template(run, folder)
    written, config = folder / "chat_template.jinja", folder / "generation_config.json"
    problems = [each.problem for name in evaluated for each in run.samples(saved.iteration).read(name).values()]
    made_with, commits = (
        list(dict.fromkeys(filter(None, (in_words(session.get(key, {})) for session in run.identity.sessions))))
        for key in ("versions", "commits")
    )
    ticks = re.findall(r"`+", f"{run.config_yaml} {template} {problems[:1]}")
    return ModelCard.from_template(
        _card_data(run, adapter, base if on_hub else None, evaluated),
        template_path=str(Path(__file__).with_name("model_card.md.j2")),
        run=run,
        adapter=adapter,
        base=f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{base}`",
        saved=saved,
        evaluated=evaluated,
        before=figures.get(0, {}) if saved.updates_total else {},
        changes=run.changes(0, saved.iteration),
        chosen_from=len(trained) if max(figures, default=0) > saved.iteration or chosen else 0,
        fence="`" * max([3, *(len(each) + 1 for each in ticks)]),
        template={name: repr(template.get(name)) for name in ("template", "chat", "arguments", "system")},
        date=saved.started[:10] if written.exists() and "strftime_now" in written.read_text() else "",
        max_new_tokens=run.setting("data.sampling.max_response_tokens") or 1024,
        added_ends=_added_ends(folder) if not template.get("chat") and (folder / "tokenizer.json").exists() else 0,
        sampling=json.loads(config.read_text()) if config.exists() else {},
        problem=repr(problems[0] if problems else "What is 7 times 8?"),
        method=method(run),
        data=problems_kept(run),
        held_out=list(dict.fromkeys([*run.benchmarks, *(run.setting("evaluation.held_out") or {})])),
        made_with=made_with,
        commits=commits,
        changed=[change for each in run.identity.sessions for change in each.get("changed", [])],
    )


def _configured_template(run: RunRecord, folder: Path) -> dict[str, Any]:
    """The template of the prompts in the words of an evaluation's settings; the problem alone where it is not known."""
    given = run.setting("data.template") or {"text": "{problem}", "chat": False}
    given = given.get("init_args", given)
    chat = given.get("chat") if given.get("chat") is not None else (folder / "chat_template.jinja").exists()
    arguments = PromptTemplate(arguments=given.get("arguments")).chat_arguments
    return {**given, "arguments": arguments, "template": given.get("text", PAPER_TEMPLATE), "chat": chat}


def _added_ends(folder: Path) -> int:
    """Number of EOS tokens with which the tokenizer ends every text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return int(tokenizer("1")["input_ids"].count(tokenizer.eos_token_id))


def _card_data(run: RunRecord, adapter: bool, base: str | None, evaluated: Mapping[str, Any]) -> "ModelCardData":
    """The front matter: what the hub indexes and shows beside the card."""
    from huggingface_hub import EvalResult, ModelCardData

    sources = run.setting("data.problems") or []
    results = []
    for name, row in evaluated.items():
        known = BENCHMARKS.get(name)
        interval = [round(row[end], 4) for end in ("avg_low", "avg_high") if end in row]
        results.append(EvalResult(
            task_type="text-generation", dataset_type=known.hub if known is not None else name, dataset_name=name,
            dataset_split=known.split if known is not None else None, metric_type="accuracy", metric_name="avg@k",
            metric_value=round(row["avg"], 4), metric_args={"interval_95": interval, "sampling": run.how_evaluated},
        ))  # fmt: skip
    return ModelCardData(
        model_name=run.name,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=base,
        base_model_relation=None if base is None else "adapter" if adapter else "finetune",
        datasets=[each["init_args"]["name"] for each in sources if str(each["class_path"]).endswith("HubProblems")]
        or None,
        tags=[
            "rence-lightning",
            *(["sft"] if run.identity.command == "warmup" else ["reinforcement-learning", "rlvr"]),
        ],
        eval_results=results or None,
    )

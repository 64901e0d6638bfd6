"""The model card: figures against evaluations.jsonl, front matter as the hub's own library reads it, and its code."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import CONF
from huggingface_hub import EvalResult, ModelCard
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rence_lightning.cli.main import main
from rence_lightning.evaluation import compare, find_samples, read_evaluations
from rence_lightning.policy.load import EMBEDDED
from rence_lightning.prompts import Problem, PromptTemplate
from rence_lightning.report.model_card import describe_checkpoint, model_card, write_model_card
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import SavedAt


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with three evaluations and a checkpoint of each iteration."""
    run_dir = tmp_path_factory.mktemp("card") / "sums"
    main(
        [
            *("fit", f"--config={CONF / 'arithmetic.yaml'}", f"--trainer.run_dir={run_dir}"),
            *("--trainer.max_iterations=2", "--data.prompts_per_iteration=4", "--data.prompts_per_update=2"),
            *("--evaluation.every=1", "--evaluation.limit=20", "--checkpoint.every=1", "--checkpoint.keep_last=3"),
        ]
    )
    return run_dir


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def saved(iteration: int, update: int = 0) -> SavedAt:
    return SavedAt("run", iteration, update, 2 * iteration + update)


def card_of(run_dir: Path, moment: SavedAt) -> ModelCard:
    return model_card(run_dir / "hf", RunRecord(run_dir), moment)


def results(card: ModelCard) -> dict[str, EvalResult]:
    return {result.dataset_name: result for result in card.data.eval_results or []}


def cells(card: ModelCard, first: str) -> list[str]:
    """The cells of the row of a table that begins with a text."""
    (row,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", card.text, re.M)
    return [cell.strip() for cell in row.split("|")]


def test_the_figures_are_those_of_the_evaluations(run: Path) -> None:
    card = ModelCard.load(run / "hf" / "README.md")
    lines = read_evaluations(run / "evaluations.jsonl")
    before, after = (lines[which]["benchmarks"]["arithmetic"] for which in (0, -1))
    result = results(card)["arithmetic"]
    assert result.metric_value == pytest.approx(after["avg"], abs=5e-5)
    assert result.metric_name == "avg@k"
    assert result.metric_args is not None
    assert result.metric_args["interval_95"] == pytest.approx([after["avg_low"], after["avg_high"]], abs=5e-5)
    numbers = [[float(each) for each in re.findall(r"[+-]?[\d.]+", cell)] for cell in cells(card, "arithmetic")]
    difference = compare(*(find_samples(run / "evaluations" / f"iteration-000{n}") for n in (0, 2)))["arithmetic"]
    expected = [
        *([100 * row[key] for key in ("avg", "avg_low", "avg_high")] for row in (before, after)),
        [100 * value for value in (difference.b - difference.a, difference.low, difference.high)],
    ]
    for shown, computed in zip(numbers, expected, strict=True):
        assert shown == pytest.approx(computed, abs=0.051)


def test_the_front_matter_survives_the_hub_s_own_parser(run: Path) -> None:
    card = ModelCard.load(run / "hf" / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert "reinforcement-learning" in card.data.tags
    assert card.data.base_model is None, "the embedded policy is not on the hub, and would be a broken link there"
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_the_configuration_in_the_card_is_that_of_the_run(run: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)\n```", (run / "hf" / "README.md").read_text(), re.S)
    assert yaml.safe_load(text) == yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.parametrize(("chat", "evaluated"), [(False, True), (True, True), (False, False), (None, False)])
def test_the_code_in_the_card_prompts_as_in_training(
    chat: bool | None, evaluated: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an evaluation describes it, or the configuration, where the tokenizer decides if `chat` is null."""
    settings: dict[str, Any] = {"text": 'Sum: {problem}\n"quoted"', "chat": chat}
    if chat is not False:
        settings |= {"system": "Add.", "arguments": {"mood": "="}}
    problem = next(iter(find_samples(copy).read("arithmetic").values())).problem if evaluated else "What is 7 times 8?"
    file = copy / "evaluations" / "iteration-0002" / "evaluation.json"
    description = json.loads(file.read_text())
    template = PromptTemplate(**settings)
    described = {"chat": chat, "arguments": template.chat_arguments, "system": template.system}
    description["settings"] |= {"template": template.text, **described}
    file.write_text(json.dumps(description))
    if not evaluated:
        config = yaml.safe_load((copy / "config.yaml").read_text())
        config["data"]["template"]["init_args"] = settings
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        shutil.rmtree(copy / "evaluations")
    tokenizer = AutoTokenizer.from_pretrained(copy / "hf")
    if chat is False:
        end = (tokenizer.eos_token, tokenizer.eos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    else:
        tokenizer.chat_template = (
            "{{ mood }}{% if enable_thinking %}?{% endif %}{% for m in messages %}{{ m.role }}+{{ m.content }}="
            "{% endfor %}?\n{# strftime_now #}"
        )
    tokenizer.save_pretrained(copy / "hf")
    card = card_of(copy, SavedAt("run", 2, 0, 4, "2026-02-28T23:59:00"))
    assert ("in training it was 2026-02-28." in card.text) == (chat is not False)
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    monkeypatch.chdir(copy / "hf")
    prompts: list[list[int]] = []
    generate = AutoModelForCausalLM.from_pretrained(".").__class__.generate

    def watched(self: Any, input_ids: torch.Tensor, **settings: Any) -> Any:
        prompts.append(input_ids[0].tolist())
        return generate(self, input_ids=input_ids, **{**settings, "max_new_tokens": 8})

    monkeypatch.setattr("transformers.Qwen3ForCausalLM.generate", watched)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert prompts == [*template.encode_all(AutoTokenizer.from_pretrained("."), [Problem("1", problem, "2")])]
    assert printed.getvalue().strip()


def test_an_older_checkpoint_has_the_figures_of_its_own_evaluation(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "iteration-0001"
    assert describe_checkpoint(tmp_path, checkpoint) == tmp_path / "README.md"
    card = ModelCard.load(tmp_path / "README.md")
    lines = read_evaluations(run / "evaluations.jsonl")
    assert results(card)["arithmetic"].metric_value == pytest.approx(lines[1]["average"], abs=5e-5)
    assert lines[1]["average"] != lines[2]["average"], "the test needs two different figures"
    assert "after iteration 1, 2 updates in all" in card.text
    assert "chosen among 2 evaluations" in card.text
    assert "chosen among" not in (run / "hf" / "README.md").read_text()


def test_a_policy_between_two_evaluations_claims_no_figures(run: Path) -> None:
    card = card_of(run, saved(1, update=1))
    assert card.data.eval_results is None
    assert "was not evaluated" in card.text and "| arithmetic |" not in card.text


def test_an_export_of_a_copied_checkpoint_says_that_it_has_no_card(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "checkpoints" / "iteration-0001", tmp_path / "copies" / "iteration-0001")
    main(["export", str(tmp_path / "copies" / "iteration-0001"), str(tmp_path / "policy")])
    out = capfd.readouterr().out
    assert "without a model card, because" in out and "hf upload USER/NAME" in out
    assert (tmp_path / "policy" / "model.safetensors").exists() and not (tmp_path / "policy" / "README.md").exists()


def test_names_on_the_hub_are_linked(copy: Path) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"]["policy"] = "Qwen/Qwen3-4B"
    config["data"]["problems"] = [
        {"class_path": "rence_lightning.prompts.HubProblems", "init_args": {"name": "BytedTsinghua-SIA/DAPO-Math-17k"}},
        {"class_path": "rence_lightning.prompts.FileProblems", "init_args": {"path": "/home/me/own.jsonl"}},
    ]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"iteration": n, "average": 0.5, "benchmarks": {"math500": {"avg": 0.5}}} for n in (0, 2)]
    (copy / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (copy / "hf" / "adapter_config.json").write_text("{}")
    card = card_of(copy, saved(2))
    assert card.data.base_model == "Qwen/Qwen3-4B"
    assert card.data.datasets == ["BytedTsinghua-SIA/DAPO-Math-17k"]
    assert results(card)["math500"].dataset_type == "HuggingFaceH4/MATH-500"
    assert card.data.library_name == "peft" and card.data.get("base_model_relation") == "adapter"
    assert "[Qwen/Qwen3-4B](https://huggingface.co/Qwen/Qwen3-4B)" in card.text
    assert "FileProblems (path /home/me/own.jsonl)" in card.text


def test_method_data_versions_and_commits_are_named(copy: Path) -> None:
    account = {"problems": 2000, "kept": 1990, "dropped": {"duplicate": 7, "contaminated": 3}}
    (copy / "training_problems.json").write_text(json.dumps(account))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"]["reference"] = {"kl_coef": 0.04}
    (copy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    record = json.loads((copy / "run.json").read_text())
    first = {**record["sessions"][0], "versions": {"torch": "1.2"}, "commits": {"working_directory": "abc-dirty"}}
    again = {**first, "checkpoint": "iteration-0001", "changed": ["data.group_size: 8 -> 4"]}
    (copy / "run.json").write_text(json.dumps({**record, "sessions": [first, again]}))
    text = card_of(copy, saved(2)).text
    assert "- objective: MultiLabelNCE (beta 0.1, alpha 0.5, margin adaptive)" in text
    assert "- reference policy: kl_coef 0.04" in text
    assert "1,990 of 2,000 training problems were kept; left out were 7 duplicates, 3 found in a benchmark." in text
    assert text.count("Made with torch 1.2; commits: working_directory abc-dirty.") == 1
    assert "Settings changed when the run was resumed: data.group_size: 8 -> 4." in text
    assert "Held out from training: arithmetic." in text


def test_hostile_text_ends_neither_the_code_nor_the_configuration(copy: Path) -> None:
    config = {"seed_everything": "```\n</details>\n", "data": {"problems": None}}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    file = copy / "evaluations" / "iteration-0002" / "arithmetic.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["problem"] = "````\n---\n\ud835 {{ 7*7 }}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_model_card(copy / "hf", copy, saved(2)).read_text()
    code, configuration = re.findall(r"^`````(?:python|yaml)\n(.*?)^`````$", text, re.S | re.M)
    compile(code, "card", "exec")
    assert yaml.safe_load(configuration) == config
    assert "{{ 7*7 }}" in code and ModelCard(text).data.library_name == "transformers"


def test_a_run_without_configuration_or_samples_still_has_a_card(copy: Path) -> None:
    (copy / "config.yaml").unlink()
    (copy / "run.json").unlink()
    shutil.rmtree(copy / "evaluations")
    write_model_card(copy / "hf", copy, saved(2))
    card = ModelCard.load(copy / "hf" / "README.md")
    assert results(card)["arithmetic"].metric_value == pytest.approx(
        read_evaluations(copy / "evaluations.jsonl")[-1]["average"], abs=5e-5
    )
    assert "config.yaml" not in card.text and "`unknown`" in card.text


def test_the_card_of_an_adapter_loads_it_with_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sample as in training, and not as the base's own generation config says."""
    pytest.importorskip("peft")
    base = shutil.copytree(EMBEDDED / "arithmetic", tmp_path / "base")
    own = GenerationConfig.from_pretrained(base)
    own.update(do_sample=True, temperature=0.6, top_k=3, repetition_penalty=1.7)
    own.save_pretrained(base)
    main(
        [
            *("fit", f"--config={CONF / 'arithmetic.yaml'}", f"--trainer.run_dir={tmp_path / 'run'}"),
            *(f"--model.policy={base}", "--data.sampling.top_p=0.9", "--data.sampling.max_response_tokens=40"),
            *("--model.lora.r=4", "--trainer.max_iterations=1", "--evaluation.limit=8", "--report.enabled=false"),
            *("--data.prompts_per_iteration=4", "--data.prompts_per_update=2", "--export.which=best"),
        ]
    )
    main(["export", str(tmp_path / "run"), str(tmp_path / "adapter"), "--adapter"])
    outputs = {}
    for folder in (tmp_path / "run" / "hf", tmp_path / "adapter"):
        card = ModelCard.load(folder / "README.md")
        (code,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
        monkeypatch.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code.replace("max_new_tokens=40", "max_new_tokens=40, do_sample=False"), done := {})
        sampling = done["policy"].generation_config
        assert (sampling.do_sample, sampling.temperature, sampling.top_p, sampling.top_k) == (True, 1.0, 0.9, 0)
        assert sampling.repetition_penalty is None and sampling.eos_token_id == own.eos_token_id
        assert "base policy had repetition_penalty 1.7, temperature 0.6, top_k 3." in card.text
        outputs[card.data.library_name] = printed.getvalue()
        assert "- low-rank adapters: r 4" in card.text
    assert outputs.keys() == {"transformers", "peft"}
    assert outputs["transformers"] == outputs["peft"] and "boxed" in outputs["peft"]

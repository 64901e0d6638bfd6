"""The report: its contents for complete and incomplete runs, and that model output never becomes part of the page."""

import base64
import csv
import json
import re
import shlex
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from arithmetic_run import finishing_callbacks, fresh_start, make_data, make_module, make_trainer, small_evaluation

from rence_lightning.callbacks import Checkpoint, Report
from rence_lightning.cli.main import main
from rence_lightning.errors import UserError
from rence_lightning.evaluation import compare, find_samples, read_evaluations
from rence_lightning.report import write_report
from rence_lightning.report.charts import OUTCOMES
from rence_lightning.report.run_record import RunRecord
from rence_lightning.sampling.curriculum.filtering import Outcome

PHONE = 390 - 2 * 14
"""Width of a figure on a phone, in CSS pixels."""

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\ud835"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, reported by the callback."""
    run_dir = tmp_path_factory.mktemp("report") / "run"
    fresh_start()
    trainer = make_trainer(run_dir, [*finishing_callbacks(), Report()], max_iterations=4)
    trainer.session.config_yaml = "seed_everything: 7\nmodel:\n  policy: embedded:arithmetic\n"
    trainer.fit(make_module(), make_data())
    return run_dir


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


class Page(HTMLParser):
    """Text, tags and images of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text())


def test_the_page_shows_what_is_in_the_run_directory(run: Path) -> None:
    page = Page((run / "report.html").read_text())
    first, last = read_evaluations(run / "evaluations.jsonl")
    before, after = 100 * first["average"], 100 * last["average"]
    assert f"accuracy on arithmetic went from {before:.1f}% to {after:.1f}% in 4 iterations" in page.text
    difference = compare(*(find_samples(run / "evaluations" / f"iteration-000{n}") for n in (0, 4)))["arithmetic"]
    assert f"95% interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}" in page.text
    assert "embedded:arithmetic" in page.text
    assert "seed 7" in page.text
    assert "4 iterations are done." in page.text, "the run is not in progress while it writes its report"
    assert "No benchmark problem was found in the training data." in page.text
    for question in ("Did it learn?", "Is it healthy?", "What was dropped?", "What do responses look like"):
        assert page.texts.count(question) == 2 or question in page.text, "at the top, and above its section"
    example = json.loads((run / "rollouts" / "iteration-0004.jsonl").read_text().splitlines()[0])
    assert example["problem"] in page.text


def test_the_page_is_self_contained_and_has_no_scripts(run: Path) -> None:
    html = (run / "report.html").read_text()
    page = Page(html)
    assert "script" not in page.tags
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in page.addresses)
    assert "default-src 'none'" in html
    figures = [address.partition(",")[2] for address in page.addresses if address.startswith("data:")]
    assert len(figures) >= 10
    for figure in figures:
        assert ElementTree.fromstring(base64.b64decode(figure)).tag.endswith("svg")


def test_every_figure_has_a_text_and_a_table_for_those_who_do_not_see_it(run: Path) -> None:
    html = (run / "report.html").read_text()
    images = re.findall(r'<img [^>]*alt="([^"]*)"', html)
    assert len(images) == html.count("<summary>numbers</summary>") == html.count("<figure>") >= 10
    correct = {row["iteration"]: row["rollouts/correct"] for row in rows_of(run) if row.get("rollouts/correct")}
    (alt,) = [each for each in images if each.startswith("Correct in training")]
    assert f"from {float(correct['1']):.1%} at iteration 1 to {float(correct['4']):.1%} at iteration 4" in alt
    for iteration, share in correct.items():
        assert f"<td>{iteration}</td><td>{float(share):.1%}</td>" in html


def test_labels_of_figures_are_large_enough_on_a_phone(run: Path) -> None:
    """Sizes are in the image's own units, and the page shows it as wide as the phone without the page's margins."""
    for address in Page((run / "report.html").read_text()).addresses:
        if not address.startswith("data:"):
            continue
        svg = base64.b64decode(address.partition(",")[2]).decode()
        (width,) = re.findall(r'viewBox="0 0 ([\d.]+) ', svg)
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert len(sizes) > 3 and min(sizes) * PHONE / float(width) >= 11


def test_figures_follow_light_and_dark_colours(run: Path) -> None:
    """Colours are variables; text and lines would otherwise vanish on the other background."""
    for address in Page((run / "report.html").read_text()).addresses:
        if address.startswith("data:"):
            svg = base64.b64decode(address.partition(",")[2]).decode()
            drawing = svg.partition("</style>")[2]
            assert "prefers-color-scheme:dark" in svg
            assert set(re.findall(r"(?:fill|stroke): (#\w+)", drawing)) <= {"#ffffff"}


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_model_output_stays_text(copy: Path) -> None:
    for file in [*copy.glob("evaluations/*/arithmetic.jsonl"), *copy.glob("rollouts/*.jsonl")]:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["problem"] = HOSTILE
            for sample in row.get("samples", []):
                sample |= {"response": HOSTILE, "extracted": HOSTILE}
            for response in row.get("responses", []):
                response |= {"text": HOSTILE, "answer": HOSTILE}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(copy)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text


def test_long_responses_are_shortened(copy: Path) -> None:
    file = copy / "evaluations" / "iteration-0004" / "arithmetic.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["samples"][0]["response"] = "begin" + "x" * 200_000 + "end"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = write_report(copy)
    assert "[... 194,008 characters ...]" in report.read_text()
    assert report.stat().st_size < 3_000_000


@pytest.mark.parametrize("missing", ["rollouts", "evaluations", "evaluations.jsonl", "metrics.csv", "config.yaml"])
def test_a_run_with_a_missing_file_is_reported_without_it(copy: Path, missing: str) -> None:
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(copy)
    text, html = page.text, (copy / "report.html").read_text()
    gone = {
        "rollouts": "Groups sampled",
        "evaluations": "solved more often than before",
        "evaluations.jsonl": "All evaluations",
    }
    gone |= {"metrics.csv": "Gradient norm", "config.yaml": "embedded:arithmetic"}
    assert gone[missing] not in text
    assert "Training problems" in text
    assert not re.search(r"<h2[^>]*>[^<]*</h2>\s*(<h2|</body>)", html), "a heading has nothing below it"


def test_a_run_that_was_killed_is_reported(copy: Path) -> None:
    log = copy / "rollouts" / "iteration-0004.jsonl"
    log.write_text(log.read_text()[:-50])
    (copy / "evaluations.jsonl").write_text((copy / "evaluations.jsonl").read_text().splitlines()[0] + "\n")
    text = page_of(copy).text
    assert "All evaluations" in text
    assert "After iteration" not in text, "there is no second evaluation to compare with"
    assert "Not known yet: there is one evaluation" in text


def test_a_validate_directory_is_reported(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [small_evaluation(), Report()])
    trainer.validate(make_module(), make_data())
    text = Page((tmp_path / "run-validate" / "report.html").read_text()).text
    (line,) = read_evaluations(tmp_path / "run-validate" / "evaluations.jsonl")
    assert f"embedded:arithmetic reaches {100 * line['average']:.1f}% on arithmetic (95% interval" in text
    assert "with 2 samples for each problem at temperature 1." in text
    counts = Counter(
        sum(sample.correct for sample in problem.samples)
        for problem in find_samples(tmp_path / "run-validate").read("arithmetic").values()
    )
    assert f"of 20 problems, {counts[2]} solved every time, {counts[1]} sometimes, {counts[0]} never." in text
    assert f"arithmetic: {counts[1]} solved sometimes" in text
    for absent in (
        "Training problems",
        "Is it healthy?",
        "Did it learn?",
        "Where did the time go?",
        "What was dropped?",
    ):
        assert absent not in text


def rerun_command(page: Page) -> list[str]:
    """The arguments of the command on the page that runs the configuration again."""
    (text,) = [text for text in page.texts if text.startswith("python -m rence_lightning")]
    return shlex.split(text)


CONFIG = "seed_everything: 7\n"


def test_the_page_gives_the_command_that_made_the_run(tmp_path: Path) -> None:
    """`validate` for a directory of `validate`, with the checkpoint that was evaluated; paths are quoted."""
    for name, settings in (("a run", {}), ("a run", {"ckpt_path": str(tmp_path / "a run")})):
        fresh_start()
        trainer = make_trainer(tmp_path / name, [small_evaluation(limit=4, every=0), Checkpoint(), Report()])
        trainer.session.config_yaml = CONFIG
        if not settings:
            trainer.fit(make_module(), make_data())
        else:
            trainer.validate(make_module(), make_data(), **settings)
    config = ["--config", str(tmp_path / "a run" / "config.yaml")]
    assert rerun_command(page_of(tmp_path / "a run")) == ["python", "-m", "rence_lightning", "fit", *config]
    config = ["--config", str(tmp_path / "a run-validate" / "config.yaml")]
    checkpoint = f"--ckpt_path={(tmp_path / 'a run' / 'checkpoints' / 'last').resolve()}"
    page = Page((tmp_path / "a run-validate" / "report.html").read_text())
    assert rerun_command(page) == ["python", "-m", "rence_lightning", "validate", *config, checkpoint]


def test_the_command_of_a_validated_policy_names_no_checkpoint(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [small_evaluation(limit=4), Report()])
    trainer.session.config_yaml = CONFIG
    trainer.validate(make_module(), make_data())
    folder = tmp_path / "run-validate"
    command = ["python", "-m", "rence_lightning", "validate", "--config", str(folder / "config.yaml")]
    assert rerun_command(Page((folder / "report.html").read_text())) == command


@pytest.mark.parametrize("content", ['{"command": "validate"}', '{"command": "fit"}', "[]", "{}", "{"])
def test_run_json_decides_what_the_command_was(copy: Path, content: str) -> None:
    """Against the other signs, where they differ; a file without a command decides nothing."""
    (copy / "run.json").write_text(content)
    expected = "validate" if "validate" in content else "fit"
    assert rerun_command(page_of(copy))[3] == expected


def test_a_fit_without_an_iteration_is_no_validate(copy: Path) -> None:
    """Killed before the first iteration ended: no figure of training, but the training problems are listed."""
    (copy / "metrics.csv").unlink()
    assert rerun_command(page_of(copy))[3] == "fit"


def test_iterations_are_in_the_order_of_their_numbers(copy: Path) -> None:
    """As text, iteration-10000 comes before iteration-9999."""
    (copy / "rollouts" / "iteration-0001.jsonl").rename(copy / "rollouts" / "iteration-9999.jsonl")
    (copy / "rollouts" / "iteration-0002.jsonl").rename(copy / "rollouts" / "iteration-10000.jsonl")
    shutil.copy(copy / "rollouts" / "iteration-9999.jsonl", copy / "rollouts" / "iteration-9999 (copy).jsonl")
    record = RunRecord(copy)
    assert list(record.rollout_files) == [3, 4, 9999, 10000]
    assert record.rollout_files[10000].name == "iteration-10000.jsonl"
    assert "iteration 10000" in page_of(copy).text


def test_every_outcome_is_named(copy: Path) -> None:
    """A logged group of each outcome is shown under the outcome's description."""
    file = copy / "rollouts" / "iteration-0004.jsonl"
    row = json.loads(file.read_text().splitlines()[0])
    outcomes = [str(outcome) for outcome in Outcome]
    file.write_text("".join(json.dumps({**row, "outcome": outcome}) + "\n" for outcome in outcomes))
    page = page_of(copy)
    for name in ("kept and trained on", "too easy", "too hard", "mastered"):
        assert any(text.startswith(name) for text in page.texts), name
    assert set(OUTCOMES) == set(outcomes)
    assert "fate" not in page.text.lower()


def test_the_command(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(copy), "--output", str(tmp_path / "page.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert Page((tmp_path / "page.html").read_text()).text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder; give a run directory"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds neither metrics\.csv nor evaluations\.jsonl"):
        write_report(tmp_path / "empty")
    with pytest.raises(UserError, match=r"cannot be written \(No such file or directory\)"):
        write_report(copy, tmp_path / "no" / "such" / "page.html")

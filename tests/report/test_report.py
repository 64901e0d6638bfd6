"""The report: its contents for complete and incomplete runs, and that model output never becomes part of the page."""

import csv
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from arithmetic_run import finishing_callbacks, fresh_start, make_data, make_module, make_trainer, small_evaluation
from matplotlib.figure import Figure
from sweep_runs import write_run

from rence_lightning.callbacks import Callback, Checkpoint, Report, Timing
from rence_lightning.cli.main import main
from rence_lightning.errors import StarvationError, UserError
from rence_lightning.evaluation import EvaluatedProblem, Sample, compare, find_samples, read_evaluations
from rence_lightning.evaluation.comparison import compare_seeds
from rence_lightning.report import write_report
from rence_lightning.report.answers import example, problems_kept, sampled
from rence_lightning.report.checks import CHECKS
from rence_lightning.report.curves import CURVES, LINES, Drawing, _draw, _svg
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run

PHONE = 390 - 2 * 16
"""Width of a figure on a phone, in CSS pixels."""

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\ud835"
CONFIG = "seed_everything: 7\nmodel: {policy: 'embedded:arithmetic'}\ntrainer: {max_iterations: 4}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, reported by the callback."""
    run_dir = tmp_path_factory.mktemp("report") / "run"
    fresh_start()
    trainer = make_trainer(run_dir, [*finishing_callbacks(), Timing(), Report()], max_iterations=4)
    trainer.session.config_yaml = CONFIG
    trainer.fit(make_module(), make_data())
    return run_dir


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


class Page(HTMLParser):
    """Text and tags of a page; fails on tags that do not match, on scripts, and on anything that is loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href") or str(value).startswith("#"), value
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(*run_dirs: Path) -> Page:
    return Page(write_report(*run_dirs).read_text())


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(run_dir: Path, rows: list[dict[str, str]]) -> None:
    with (run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_page_answers_every_question(run: Path) -> None:
    html = (run / "report.html").read_text()
    page = Page(html)
    first, last = read_evaluations(run / "evaluations.jsonl")
    before, after = 100 * first["average"], 100 * last["average"]
    assert f"accuracy on arithmetic went from {before:.1f}% to {after:.1f}% in 4 iterations" in page.text
    difference = compare(*(find_samples(run / "evaluations" / f"iteration-000{n}") for n in (0, 4)))["arithmetic"]
    assert f"95% interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}" in page.text
    assert "Training of embedded:arithmetic, in" in page.text and "seed 7" in page.text
    assert "4 of 4 iterations are done" in page.text, "the run is not in progress while it writes its report"
    for question in ("Did it learn?", "Is it healthy?", "Where did the time go?", "What did it sample?", "What next?"):
        assert question in page.text
    for anchor in re.findall(r'href="#(\w+)"', html):
        assert f'id="{anchor}"' in html
    assert "hf upload USER/NAME" in page.text
    assert "default-src 'none'" in html


def test_every_series_that_is_watched_or_drawn_is_logged(run: Path) -> None:
    logged = {name for row in rows_of(run) for name, value in row.items() if value}
    drawn = {check.series for check in CHECKS} | {name for curve in CURVES for name in curve.names}
    others = {"evaluation/loss", "rollouts/replied"}  # tests/training/test_warmup.py, tests/sampling/test_dialogue.py
    assert drawn <= logged | others
    assert len(re.findall(r"<figure", (run / "report.html").read_text())) == len(CURVES) - 1


def test_figures_are_readable_on_a_phone_in_both_colours_and_without_eyes(run: Path) -> None:
    html = (run / "report.html").read_text()
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        (width,) = re.findall(r'viewBox="0 0 ([\d.]+) ', svg)
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert len(sizes) > 3 and min(sizes) * PHONE / float(width) >= 11
        used = set(re.findall(r"(?:fill|stroke): (#\w+|var\(--\w+\))", svg))
        assert used and all(colour.startswith("var") and f"{colour[4:-1]}: #" in html for colour in used)
    correct = [float(row["rollouts/correct"]) for row in rows_of(run) if row.get("rollouts/correct")]
    ends = f"correct: from {correct[0]:.1%} at iteration 1 to {correct[-1]:.1%} at iteration 4."
    assert f'aria-label="Correct in training. {ends}"' in html


def answered(right: str) -> EvaluatedProblem:
    """A problem with a response for each character, correct where it is 1."""
    samples = [Sample(f"response {n}", None, each == "1", 0.0, -1, 3, "stop") for n, each in enumerate(right)]
    return EvaluatedProblem("id", "1+1=?", "1+1=?", "2", tuple(samples))


@pytest.mark.parametrize(
    ("pairs", "text", "responses"),
    [
        ([("00", "00"), ("10", "11"), ("00", "11"), ("11", "00")], "0 of 2 correct to 2 of 2: 1+1=?", [0, 0]),
        ([("1011", "0111"), ("1001", "0111")], "2 of 4 correct to 3 of 4", [1, 1]),
        ([("11", "10"), ("00", "00")], "No problem was solved more often after training than before.", []),
        ([(None, "11")], "", []),
    ],
)
def test_the_example_is_wrong_before_and_right_after(pairs: Any, text: str, responses: list[int]) -> None:
    said, shown = example([(None if a is None else answered(a), answered(b)) for a, b in pairs])
    assert text in said and bool(text) == bool(said)
    assert [(s.response, s.correct) for s in shown] == [
        (f"response {n}", right) for n, right in zip(responses, (False, True), strict=False)
    ]


def test_no_answer_is_missing_where_the_reward_reads_none(copy: Path) -> None:
    """Each row is given the figures that such a reward has: no share of answers."""
    assert "no answer" in page_of(copy).text
    rows = rows_of(copy)
    with (copy / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"rollouts/answered": row["rollouts/answered"] and "0.0"} for row in rows)
    lines = read_evaluations(copy / "evaluations.jsonl")
    for line in lines:
        del line["benchmarks"]["arithmetic"]["answered"]
    (copy / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "no answer" not in page_of(copy).text and "incorrect" in page_of(copy).text


def drawn(values: list[float], percent: bool = False, band: float = 0.0) -> ElementTree.Element:
    """The SVG of a series, with an interval of a half-width."""
    line = list(enumerate(values))
    ends = [[(x, y + side) for x, y in line] for side in (-band, band)] if band else []
    figure = Figure()
    styles = {"line": (next(iter(LINES)), ())}
    _draw(figure, Drawing("", "", {"line": line}, {"line": ends} if band else {}, percent, styles))
    return ElementTree.fromstring(_svg(figure))


def ticks(svg: ElementTree.Element, axis: str) -> list[str]:
    (group,) = [each for each in svg.iter() if each.get("id") == f"matplotlib.axis_{axis}"]
    return ["".join(each.itertext()).strip() for each in group.iter() if each.tag.endswith("}text")]


@pytest.mark.parametrize(
    ("values", "percent"),
    [
        ([0.9998, 0.9999, 1.0, 0.9997], True),
        ([1.0] * 6, True),
        ([0.0] * 6, True),
        ([0.0002, 0.0], True),
        ([1200.0, 1210.0, 1190.0], False),
        ([3.1e-7, 3.3e-7] * 4, False),
        ([1e-6, 1e-2, 1e3], False),
        ([-0.03, 0.02] * 3, False),
        ([-0.03, -0.02], False),
    ],
)
def test_the_axis_contains_zero_and_no_tick_is_written_twice(values: list[float], percent: bool) -> None:
    labels = ticks(drawn(values, percent), "2")
    numbers = [float(label.strip("%").replace("\u2212", "-")) for label in labels]
    assert 0 in numbers and len(set(numbers)) == len(numbers) > 2
    assert not percent or (all(label.endswith("%") for label in labels) and max(numbers) <= 100)


@pytest.mark.parametrize(("points", "joined"), [(2, False), (4, False), (5, True), (30, True)])
def test_a_few_points_are_not_joined(points: int, joined: bool) -> None:
    svg = drawn([0.3 + n / 100 for n in range(points)], percent=True, band=0.02)
    text = ElementTree.tostring(svg, encoding="unicode")
    assert ("stroke: var(--c1a7f64); stroke-width: 2" in text) == joined
    assert ('id="FillBetween' in text) == joined and ('id="LineCollection' in text) != joined
    assert all(float(label).is_integer() for label in ticks(svg, "1") if label != "iteration")


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
    renamed = copy.rename(copy.with_name("<script>$\\frac{"))
    text = page_of(renamed, shutil.copytree(renamed, copy.with_name("_other"))).text + page_of(renamed).text
    assert "<script>alert(1)</script>" in text and "{{ 7*7 }}" in text


def test_long_responses_are_shortened(copy: Path) -> None:
    file = copy / "evaluations" / "iteration-0004" / "arithmetic.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["samples"][0]["response"] = "begin" + "x" * 200_000 + "end"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = write_report(copy)
    assert "[... 194,008 characters ...]" in report.read_text()
    assert report.stat().st_size < 1_000_000


@pytest.mark.parametrize("missing", ["rollouts", "evaluations", "evaluations.jsonl", "metrics.csv", "config.yaml",
                                     "run.json"])  # fmt: skip
def test_a_run_with_a_missing_file_is_reported_without_it(copy: Path, missing: str) -> None:
    gone = {
        "rollouts": "Groups sampled",
        "evaluations": "solved more",
        "evaluations.jsonl": "All evaluations",
        "metrics.csv": "Gradient norm",
        "config.yaml": "complete config.yaml",
        "run.json": "None",
    }
    assert missing == "run.json" or gone[missing] in Page((copy / "report.html").read_text()).text
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = page_of(copy).text
    assert gone[missing] not in text
    assert "training problems were kept" in text and "Is it healthy?" in text


@pytest.mark.parametrize("column", ["time/", "rollouts/", "iteration/", "train/", "evaluation/"])
def test_a_run_that_lacks_figures_is_reported_without_them(copy: Path, column: str) -> None:
    rows = rows_of(copy)
    kept = [name for name in rows[0] if not name.startswith(column)]
    write_rows(copy, [{name: row[name] for name in kept} for row in rows])
    text = page_of(copy).text
    assert ("Where did the time go?" in text) == (column != "time/")
    assert "nan" not in text and "None" not in text.partition("What was it?")[0]


def test_a_run_that_was_killed_is_reported(copy: Path) -> None:
    log = copy / "rollouts" / "iteration-0004.jsonl"
    log.write_text(log.read_text()[:-50])
    (copy / "evaluations.jsonl").write_text((copy / "evaluations.jsonl").read_text().splitlines()[0] + "\n")
    assert "Not known yet: there is one evaluation" in page_of(copy).text
    (copy / "evaluations.jsonl").unlink()
    assert "Not measured: no benchmark was evaluated." in page_of(copy).text


def test_what_was_sampled_is_counted(copy: Path) -> None:
    record = RunRecord(copy)
    outcomes = Counter(group["outcome"] for iteration in record.rollout_files for group in record.groups(iteration))
    share = f"{outcomes['kept'] / outcomes.total():.0%}"
    assert f"{outcomes['kept']} of {outcomes.total()} sampled groups ({share}) were trained on" in sampled(record)
    for outcome in ("too easy", "too hard", "mastered"):
        assert f" {outcomes[outcome.replace(' ', '_')]} {outcome}" in sampled(record)
    account = {"problems": 2000, "kept": 1990, "dropped": {"duplicate": 7, "contaminated": 3}, "too_long": 5}
    account["contamination"] = {"math500": {"problems": 2}}
    (copy / "training_problems.json").write_text(json.dumps(account))
    assert problems_kept(RunRecord(copy)) == (
        "1,985 of 2,000 training problems were kept; left out were 7 duplicates, 3 found in a benchmark, 5 too long "
        "for data.max_prompt_tokens or the context. 2 benchmark problems were found among all."
    )


def test_seeds_of_one_setting_are_compared_with_the_first(run: Path, copy: Path, tmp_path: Path) -> None:
    """The second has the samples of the start as its last ones: its difference is the first run's, reversed."""
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("7", "8", 1))
    shutil.copy(copy / "evaluations/iteration-0000/arithmetic.jsonl", copy / "evaluations/iteration-0004/")
    main(["report", str(run), str(copy), "--output", str(tmp_path / "both.html")])
    page = Page((tmp_path / "both.html").read_text())
    difference = compare(find_samples(run), find_samples(copy))["arithmetic"]
    assert difference.b < difference.a
    shown = f"{100 * (difference.b - difference.a):+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    assert f"copy: arithmetic {difference.problems} " in page.text and shown in page.text
    mean = 50 * (difference.a + difference.b)
    assert f"2 runs run (seed) arithmetic % (95% interval) health run (7), copy (8) {mean:.1f} (" in page.text
    assert "This is one seed" not in page.text and "This is one seed" in page_of(run).text


def sweep(folder: Path, rates: Sequence[float], seeds: int = 1, **settings: Any) -> list[Path]:
    """Runs of which each rate solves more, and each seed too."""
    return [
        write_run(
            folder / f"x-{place}-{seed}", rate, seed, [2] * (1 + place + seed) + [0] * (30 - place - seed), **settings
        )
        for place, rate in enumerate(rates)
        for seed in range(seeds)
    ]


def test_a_sweep_is_seen_at_a_glance(tmp_path: Path) -> None:
    """Settings with their values, means over seeds, and a line for each setting under its own name."""
    runs = sweep(tmp_path, (1e-5, 1e-4, 0.05), seeds=2)
    html = write_report(*runs, file=tmp_path / "sweep.html").read_text()
    page = Page(html)
    assert "6 runs of 3 settings" in page.text and "trainer.run_dir" not in page.text.partition("How do the runs")[0]
    names = ("x-0-0 (0), x-0-1 (1)", "x-1-0 (0), x-1-1 (1)", "x-2-0 (0), x-2-1 (1)")
    places = zip(names, ("1e-5", "1e-4", "0.05"), runs[::2], runs[1::2], strict=True)
    folders = {run: find_samples(run) for run in runs}
    for names_of_runs, rate, *seeds in places:
        (found,) = compare_seeds([(None, folders[run]) for run in seeds]).values()
        shown = f"{100 * found.b:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
        assert f"{names_of_runs} {rate} {shown}" in page.text
    (found,) = compare_seeds([(folders[runs[n]], folders[runs[4 + n]]) for n in (0, 1)]).values()
    assert f"lr 0.05: sums {found.problems} {100 * found.a:.1f} {100 * found.b:.1f}" in page.text
    for curve in ("Accuracy: sums", "KL"):
        (figure,) = re.findall(rf'<figure role="img" aria-label="{curve}\. (.*?)</figure>', html, re.S)
        assert [figure.count(f">lr {rate}<") for rate in ("1e-5", "1e-4", "0.05")] == [1, 1, 1], "its legend"
        assert figure.count("PolyCollection") == 3, "a band for the range of the seeds"
    assert "evaluated iterations, with 95% intervals or the range over seeds." in page.text
    assert "lr 1e-4: from 0.0001 at iteration 0 to 0.0003 at iteration 2." in html, "the mean of equal seeds"


def test_a_seed_that_was_evaluated_earlier_is_left_out_and_named(tmp_path: Path) -> None:
    runs = sweep(tmp_path, (1e-5, 1e-4), seeds=2)
    shutil.rmtree(runs[1] / "evaluations" / "iteration-0002")
    lines = (runs[1] / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (runs[1] / "evaluations.jsonl").write_text(lines[0])
    write_rows(runs[1], rows_of(runs[1])[:1])
    page, whole = page_of(*runs), page_of(*runs[::2])
    assert "Not compared: x-0-1 is left out: its last evaluation is of iteration 0, not 2" in page.text
    (found,) = compare_seeds([(None, find_samples(runs[0]))]).values()
    assert f"{100 * found.b:.1f} ({100 * found.low:.1f} to" in page.text and f"{100 * found.b:.1f}" in whole.text


def test_twenty_settings_are_told_apart(tmp_path: Path) -> None:
    """No two lines have the same colour and dashes, which the table shows; the figures have no room for a legend."""
    runs = sweep(tmp_path, [0.01 * (1 + place) for place in range(20)], benchmarks=[*"abcd"])
    html = write_report(*runs, file=tmp_path / "sweep.html").read_text()
    lines = re.findall(r'<td><svg.*?(stroke="var.*?)/>', html)
    assert len(lines) == len({*lines}) == 20
    dashes, colour = r"(stroke-dasharray: [^;]*; stroke-dashoffset: [^;]*; )?", r"stroke: (var\(--c\w+\))"
    drawn = re.findall(rf'style="fill: none; {dashes}{colour}; stroke-width: 2', html)
    assert len({*drawn}) == 20, "the same in the figures"
    assert ">lr 0.01<" not in html
    page = Page(html)
    assert "20 runs of 20 settings run (seed) model.optimizer.lr macro average % (95% interval) health" in page.text
    assert {"Accuracy: mean over benchmarks", "KL"} <= {*page.texts}
    assert page.texts.count("Run by run") == 1 and all(f"lr 0.2: {name}" in page.texts for name in "abcd")


def test_many_differing_settings_of_few_runs_stand_below_one_another(tmp_path: Path) -> None:
    runs = sweep(tmp_path, (1e-5, 1e-4))
    changed = "".join(f"key{number}: {number}\n" for number in range(8))
    (runs[1] / "config.yaml").write_text((runs[1] / "config.yaml").read_text() + changed)
    table = re.findall(r"<table>.*?</table>", write_report(*runs).read_text(), re.S)[0]
    rows = [re.sub(r"<[^>]+>", "|", row).strip("|") for row in re.findall(r"<tr>.*?</tr>", table, re.S)]
    assert {"model.optimizer.lr||1e-5||1e-4", "key7||-||7"} <= {*rows}


def test_a_line_keeps_its_style_where_another_one_is_missing(tmp_path: Path) -> None:
    runs = sweep(tmp_path, (1e-5, 1e-4))
    rows = [{**row, "iteration/kl": ""} for row in rows_of(runs[0])]
    write_rows(runs[0], rows)
    (kl,) = re.findall(r'aria-label="KL\. .*?</figure>', write_report(*runs).read_text(), re.S)
    second = list(LINES)[1][1:]
    assert f"stroke: var(--c{second})" in kl


def test_runs_that_cannot_be_compared_say_why(run: Path, copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "evaluations")
    page = page_of(run, copy)
    assert f"Not compared: {copy / 'evaluations' / 'iteration-0004'} holds no finished benchmark" in page.text
    runs = [*sweep(tmp_path / "a", (1e-5, 1e-4)), *sweep(tmp_path / "b", (1e-3,), benchmarks=["other"])]
    assert "no benchmark in common" in page_of(*runs).text
    seeds = sweep(tmp_path / "seeds", (1e-5,), seeds=3)
    for missing in (1, 0, 2):
        shutil.rmtree(seeds[missing] / "evaluations")
        assert f"x-0-{missing}/evaluations/iteration-0002 holds no finished benchmark" in page_of(*seeds).text


def rerun_command(page: Page) -> list[str]:
    """The arguments of the command on the page that runs the configuration again."""
    (text,) = [text for text in page.texts if text.startswith("python -m rence_lightning") and "--config" in text]
    return shlex.split(text)[3:]


def test_a_validate_directory_is_reported(tmp_path: Path) -> None:
    """With the checkpoint that was evaluated in the command; paths are quoted."""
    fresh_start()
    trainer = make_trainer(tmp_path / "a run", [small_evaluation(every=0), Checkpoint(), Report()], max_iterations=1)
    trainer.session.config_yaml = "seed_everything: 7\n"
    trainer.fit(make_module(), make_data())
    assert rerun_command(page_of(tmp_path / "a run")) == ["fit", "--config", str(tmp_path / "a run" / "config.yaml")]
    fresh_start()
    trainer = make_trainer(tmp_path / "a run", [small_evaluation(), Report()])
    trainer.session.config_yaml = "seed_everything: 7\n"
    trainer.validate(make_module(), make_data(), ckpt_path=str(tmp_path / "a run"))
    folder, checkpoint = tmp_path / "a run-validate", (tmp_path / "a run" / "checkpoints" / "last").resolve()
    page = Page((folder / "report.html").read_text())
    command = ["validate", "--config", str(folder / "config.yaml"), f"--ckpt_path={checkpoint}"]
    assert rerun_command(page) == command
    (line,) = read_evaluations(folder / "evaluations.jsonl")
    problems = find_samples(folder).read("arithmetic").values()
    counts = Counter(sum(sample.correct for sample in problem.samples) for problem in problems)
    assert f"{100 * line['average']:.1f}% on arithmetic (95% interval" in page.text
    assert "with 2 samples of each problem at temperature 1.0." in page.text
    assert f"of 20 problems, it solves {counts[2]} every time, {counts[1]} sometimes, {counts[0]} never." in page.text
    for absent in ("training problems", "Is it healthy?", "Where did the time go?"):
        assert absent not in page.text


class Fails(Callback):
    """Ends the run in an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_rollouts_end(self, trainer: Any, module: Any, batch: Any) -> None:
        if batch.iteration == self.iteration:
            raise StarvationError("no groups to train on <b>")


def test_a_run_that_fails_is_reported_with_its_error(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [Fails(2), Report()], max_iterations=4)
    trainer.session.config_yaml = CONFIG
    with pytest.raises(StarvationError):
        trainer.fit(make_module(), make_data())
    text = Page((tmp_path / "run" / "report.html").read_text()).text
    assert re.search(r"No: of \d+ checks, 1 failed", text)
    assert "1 of 4 iterations are done; then the run ended with an error: StarvationError: no groups to" in text


def test_an_error_before_the_first_iteration_is_written_down_but_not_reported(tmp_path: Path) -> None:
    fresh_start()
    with pytest.raises(StarvationError):
        make_trainer(tmp_path / "run", [Fails(1), Report()]).fit(make_module(), make_data())
    identity = Run.open(tmp_path / "run")
    assert identity is not None and identity.error is not None and "StarvationError" in identity.error
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder; give a run directory"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds neither metrics\.csv nor evaluations\.jsonl"):
        write_report(tmp_path / "empty")
    with pytest.raises(UserError, match=r"cannot be written \(No such file or directory\)"):
        write_report(copy, file=tmp_path / "no" / "such" / "page.html")

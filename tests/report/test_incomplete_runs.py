"""The report of runs that failed, that another version made, or that have hardly begun: a page that makes sense."""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from arithmetic_run import finishing_callbacks, fresh_start, make_data, make_module, make_trainer

from rence_lightning.callbacks import Callback, Report, Timing
from rence_lightning.errors import StarvationError
from rence_lightning.report import write_report
from rence_lightning.report.run_record import RunRecord
from rence_lightning.run.directory import Run

CONFIG = "trainer: {max_iterations: 3}\ndata: {prompts_per_iteration: 6, group_size: 8}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations with all of its figures."""
    run_dir = tmp_path_factory.mktemp("incomplete") / "run"
    fresh_start()
    trainer = make_trainer(run_dir, [*finishing_callbacks(), Timing(), Report()], max_iterations=3)
    trainer.session.config_yaml = CONFIG
    trainer.fit(make_module(), make_data())
    return run_dir


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def html_of(run_dir: Path) -> str:
    return unescape(write_report(run_dir).read_text())


def keep_columns(run_dir: Path, *, without: str) -> None:
    """Removes the columns whose names contain a text, as if an earlier version had not logged them."""
    lines = [line.split(",") for line in (run_dir / "metrics.csv").read_text().splitlines()]
    kept = [at for at, name in enumerate(lines[0]) if without not in name]
    (run_dir / "metrics.csv").write_text("".join(",".join(line[at] for at in kept) + "\n" for line in lines))


def test_a_whole_run_answers_every_question(run: Path) -> None:
    html = html_of(run)
    for anchor in ("learned", "health", "time", "dropped", "responses"):
        assert f'<a href="#{anchor}">' in html and f'<h2 id="{anchor}">' in html
    assert "3 of 3 iterations are done." in html


def test_the_kl_is_judged_by_the_limit_of_the_run(copy: Path) -> None:
    with (copy / "config.yaml").open("a") as file:
        file.write("model: {trust_region: {delta: 1.0e-12, reduction: token}}\n")
    assert "target 1.0e-12" in html_of(copy) or "target 1e-12" in html_of(copy)


@pytest.mark.parametrize(
    "column", ["time/", "rollouts/", "iteration/", "train/", "engine_", "entropy", "share_", "responses", "evaluation/"]
)
def test_a_run_of_an_earlier_version_lacks_what_was_not_logged(copy: Path, column: str) -> None:
    keep_columns(copy, without=column)
    html = html_of(copy)
    assert "Did it learn?" in html
    assert ('id="time"' in html) == (column != "time/")
    assert "nan" not in html and "None" not in html.partition('<h2 id="configuration"')[0]


def test_a_run_of_one_iteration_without_evaluation(copy: Path) -> None:
    shutil.rmtree(copy / "evaluations")
    (copy / "evaluations.jsonl").unlink()
    lines = (copy / "metrics.csv").read_text().splitlines()
    iteration = lines[0].split(",").index("iteration")
    first = [line for line in lines[1:] if line.split(",")[iteration] == "1"]
    (copy / "metrics.csv").write_text("\n".join([lines[0], *first]) + "\n")
    html = html_of(copy)
    assert "Not measured: no benchmark was evaluated." in html
    assert "1 of 3 iterations are done" in html
    assert '<a href="#learned">' not in html, "a link to nothing"


def test_without_evaluations_the_same_prompt_is_shown_early_and_late(copy: Path) -> None:
    shutil.rmtree(copy / "evaluations")
    files = RunRecord(copy).rollout_files
    early = json.loads(files[2].read_text().splitlines()[1])
    late = {**early, "responses": [{**each, "text": "the later text"} for each in early["responses"]]}
    files[3].write_text(json.dumps(late) + "\n")
    html = html_of(copy)
    part = html[html.index("The same prompt in training, early and late") :]
    assert early["problem"] in part and early["responses"][0]["text"] in part and "the later text" in part
    assert part.index("Iteration 2") < part.index("Iteration 3")


def test_new_figures_are_shown_where_they_are(copy: Path) -> None:
    lines = (copy / "metrics.csv").read_text().splitlines()
    at = lines[0].split(",").index("rollouts/correct")
    rows = [line + (",0.07,0.02" if line.split(",")[at] else ",,") for line in lines[1:]]
    (copy / "metrics.csv").write_text(
        "\n".join([f"{lines[0]},iteration/movement_seen,iteration/weights_changed", *rows])
    )
    html = html_of(copy)
    assert "follow 7.0% of the movement" in html and "2.0% of them change" in html
    assert "Movement that computes" in html


def test_an_interrupted_run_says_so(copy: Path) -> None:
    (copy / "config.yaml").write_text(CONFIG.replace("3", "9", 1))
    identity = Run.open(copy)
    assert identity is not None
    Run(**{**vars(identity), "finished": False}).write()
    assert "3 of 9 iterations are done; the run was interrupted." in html_of(copy)


class Fails(Callback):
    """Ends the run in its third iteration."""

    def on_rollouts_end(self, trainer: Any, module: Any, batch: Any) -> None:
        if batch.iteration == 3:
            raise StarvationError("no groups to train on <b>")


def test_a_resumed_run_is_judged_by_its_new_settings(tmp_path: Path) -> None:
    for iterations, checkpoint in ((1, None), (2, "last")):
        fresh_start()
        trainer = make_trainer(tmp_path / "run", [*finishing_callbacks(), Report()], max_iterations=iterations)
        trainer.session.config_yaml = CONFIG.replace("3", str(iterations), 1)
        trainer.fit(make_module(), make_data(), ckpt_path=checkpoint)
    assert "2 of 2 iterations are done." in html_of(tmp_path / "run")


def test_a_run_that_fails_is_reported_with_its_error(tmp_path: Path) -> None:
    fresh_start()
    trainer = make_trainer(tmp_path / "run", [*finishing_callbacks(), Fails(), Report()], max_iterations=5)
    trainer.session.config_yaml = CONFIG.replace("3", "5", 1)
    with pytest.raises(StarvationError):
        trainer.fit(make_module(), make_data())
    html = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"No: of \d+ checks, 1 failed", html)
    said = (
        "2 of 5 iterations are done; then the run ended with an error: StarvationError: no groups to train on &lt;b&gt;"
    )
    assert said in html
    assert said in write_report(tmp_path / "run").read_text(), "the error is in run.json"


def test_an_error_before_the_first_iteration_is_written_down_but_not_reported(tmp_path: Path) -> None:
    class Early(Callback):
        def on_rollouts_end(self, trainer: Any, module: Any, batch: Any) -> None:
            raise RuntimeError("at once")

    fresh_start()
    with pytest.raises(RuntimeError, match="at once"):
        make_trainer(tmp_path / "run", [Early(), Report()]).fit(make_module(), make_data())
    identity = Run.open(tmp_path / "run")
    assert identity is not None and identity.error is not None and identity.error.endswith("RuntimeError: at once")
    assert not (tmp_path / "run" / "report.html").exists()

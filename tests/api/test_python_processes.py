"""The Python API in the processes that people use it in: twice in one, in an event loop, in several, interrupted."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from own_task import PROBLEMS, SMALL, exact

from rence_lightning import Response, fit
from rence_lightning.errors import PartError
from rence_lightning.training import Trainer

TESTS = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}


def state_of_the_process() -> dict[str, Any]:
    """What a run could leave behind in its process."""
    links = list(Path("/proc/self/fd").iterdir())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": sorted(str(link.readlink()) for link in links if link.is_symlink() and "matplotlib" not in str(link)),
        "children": [child for child in children if Path(f"/proc/{child}/stat").exists()],
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "random": [random.random(), float(numpy.random.rand()), float(torch.rand(1))],
        "threads of torch": torch.get_num_threads(),
        "directory": Path.cwd(),
    }


def test_a_result_does_not_hold_the_optimizer(tmp_path: Path) -> None:
    """Its state is twice the policy, and would stay in memory beside the next run."""

    def held() -> list[object]:
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, torch.optim.Optimizer | Trainer)]

    before = held()  # what other tests of the process have left
    result = fit(problems=PROBLEMS, reward=exact, run_dir=tmp_path / "run", max_iterations=1, **SMALL)
    assert not [each for each in held() if not any(each is other for other in before)]
    assert result.policy.generate("12+3=?")[0][0].text


def test_a_run_leaves_its_process_as_it_was_also_after_an_error(tmp_path: Path) -> None:
    def breaks(response: Response) -> float:
        raise KeyError(response.text)

    def seeded_state() -> dict[str, Any]:
        random.seed(1)
        numpy.random.seed(1)
        torch.manual_seed(1)
        return state_of_the_process()

    def run(**settings: Any) -> None:
        fit(problems=PROBLEMS, run_dir=tmp_path / "run", max_iterations=1, seed=5, **{**SMALL, **settings})

    run(reward=exact)  # imports, and what they do once
    before = seeded_state()
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    run(reward=exact, trainer={"cpu_threads": 2})
    assert state_of_the_process() == before
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    with pytest.raises(PartError):
        run(reward=breaks)
    assert state_of_the_process() == before


NOTEBOOK = """
import asyncio, sys
from rence_lightning import fit
from own_task import PROBLEMS, SMALL

def reward(response):
    return response.text.endswith("\\\\boxed{" + response.problem.answer + "}")

async def cell():
    assert not hasattr(sys.modules["__main__"], "__file__")
    math = fit(problems=PROBLEMS, reward="MathReward", max_iterations=1, run_dir="runs/math", **SMALL)
    await asyncio.sleep(0)
    return math, fit(problems=PROBLEMS, reward=reward, held_out=0.2, max_iterations=1, run_dir="runs/own", **SMALL)

for result in asyncio.run(cell()):
    print("##", result)
"""


@pytest.mark.slow
def test_an_event_loop_and_a_main_module_without_a_file_as_in_a_notebook(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [line for line in done.stdout.splitlines() if line.startswith("##")]
    assert len(results) == 2 and "'runs/math'" in results[0] and "held_out: " in results[1]


SCRIPT = """
import json, os
from pathlib import Path
from rence_lightning import fit
from own_task import PROBLEMS, SMALL, exact

def run(devices):
    task = {**SMALL, "trainer": {"devices": devices, "cpu_threads": 1, "accelerator": "cpu"}}
    return fit(problems=PROBLEMS, reward=exact, held_out=0.2, max_iterations=1, run_dir="runs/two", **task)

for _ in range(2):
    result = run(2)
    lines = Path(f"rank-{os.environ.get('LOCAL_RANK', '0')}").open("a")  # what both print is mixed up
    print(json.dumps([str(result.run_dir), result.curve("train/loss")]), file=lines, flush=True)
run(1)
"""


@pytest.mark.slow
def test_a_script_with_two_processes_trains_twice_and_as_one_process_does(tmp_path: Path) -> None:
    """No guard of the main module is needed; the script runs in both processes."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    first, second = ((tmp_path / f"rank-{rank}").read_text().splitlines() for rank in (0, 1))
    assert first == second, "both processes return the same result"
    (one, losses), (other, again) = map(json.loads, first)
    assert (one, other) == ("runs/two", "runs/two-2") and losses == again
    assert (
        "UserError: trainer: devices x num_nodes is 1, but an earlier run of this process has joined it" in done.stderr
    )
    alone = fit(problems=PROBLEMS, reward=exact, held_out=0.2, max_iterations=1, run_dir=tmp_path / "alone", **SMALL)
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in alone.curve("train/loss")], rel=1e-4)


LONG = """
from rence_lightning import fit
from own_task import PROBLEMS, SMALL, exact
try:
    fit(problems=PROBLEMS, reward=exact, max_iterations=1000, run_dir="runs/long", **SMALL)
except KeyboardInterrupt as error:
    print("## interrupted", repr(error.__cause__), flush=True)
result = fit(problems=PROBLEMS, reward=exact, max_iterations=3, run_dir="runs/long", ckpt_path="last", **SMALL)
print("##", result.run_dir.name, len(result.curve("train/loss")) >= 4)
"""


@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_raises_keyboard_interrupt(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LONG], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "runs" / "long" / "metrics.csv"
    until = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 8):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    lines = [line for line in output.splitlines() if line.startswith("##")]
    assert lines == ["## interrupted Stopped('SIGINT')", "## long True"], output

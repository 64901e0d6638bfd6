"""A rank of a run fails: all processes end in time with the cause, or start again and end as if nothing had happened.

A run of two processes starts its own agent. The transport hides failures, as NCCL does, unless a case says otherwise.
"""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest
import torture

from rence_lightning.training import launch as launching
from rence_lightning.training.fabric import make_fabric

KINDS = ("UserError", "OutOfMemoryError", "AssertionError", "UnknownError")
PLACES = ("build", "sync", "generate", "reward", "filter", "update", "save", "callback")
SAVED = ("generate", "reward", "filter", "callback")
"""Places where all ranks come to an agreement, so that the state is saved because of the failure."""
SECONDS = 40
"""Time that torch's agent leaves the other processes after a failure, which is not configurable, and 10 seconds."""

SIGNALS = [("SIGKILL", 0, "generate"), ("SIGKILL", 1, "update"), ("SIGSTOP", 0, "update"), ("SIGSTOP", 1, "reward")]
CASES = list(zip(cycle(KINDS), (0, 1, 1, 0, 1, 0, 0, 1), PLACES, strict=False))


def start(kind: str, rank: int, place: str, folder: Path, *options: str, deaf: bool = True) -> "subprocess.Popen[str]":
    """A run in which one of two ranks fails in its second iteration."""
    part = {"engine": "Engine", "reward": "Reward", "filter": "Filter"}
    failing = {"kind": kind, "rank": rank, "place": place, "deaf": deaf and kind != "SIGSTOP"}
    callback = {"class_path": "failing_parts.Failing", "init_args": failing}
    return torture.start(
        folder / "run",
        *("--trainer.max_iterations=3", "--data.prompts_per_iteration=4", "--data.prompts_per_update=2"),
        *("--trainer.devices=2", "--trainer.strategy=rence_lightning.training.FullyShardStrategy"),
        *(f"--data.{key}=failing_parts.{name}" for key, name in part.items()),
        *("--model.objective=failing_parts.Objective", f"--trainer.callbacks+={json.dumps(callback)}"),
        *options,
    )


def assert_all_end(kind: str, rank: int, place: str, folder: Path) -> None:
    every = 100 if kind in KINDS and place in SAVED else 1
    minutes = 0.15 if kind == "SIGSTOP" else 120  # enough for what ranks differ in on a busy machine
    process = start(kind, rank, place, folder, f"--checkpoint.every={every}", f"--trainer.timeout_minutes={minutes}")
    try:
        output, _ = process.communicate(timeout=180)  # ends when the last process has closed its output
    except subprocess.TimeoutExpired:
        torture.kill(process)
        raise
    seconds = time.time() - float((folder / "failed_at").read_text())
    print(f"{kind} {rank} {place}: {seconds:.1f} s")
    words = {"SIGKILL": f"rank {rank} was ended by SIGKILL", "SIGSTOP": "another process hangs"}.get(kind, "the cause")
    assert process.returncode not in (0, None), output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0], output
    assert "onnection reset" not in output and "onnection closed" not in output, output
    if place not in ("build", "save"):
        assert (folder / "run" / "checkpoints" / "last").resolve().name.startswith("iteration-0001"), output
    if (folder / "run" / "checkpoints").exists():
        torture.assert_nothing_half_written(folder / "run")
    assert seconds < SECONDS + 9 * (kind == "SIGSTOP"), f"all processes ended only after {seconds:.0f} s"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(torture.ROOT), str(torture.ROOT / "tests")]))
    monkeypatch.setenv("FAILED_AT", str(tmp_path / "failed_at"))


def test_an_error_of_one_rank_ends_all_with_the_cause(tmp_path: Path) -> None:
    assert_all_end("UserError", 1, "reward", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rank", "place"), [*CASES, *SIGNALS])
def test_all_processes_end_when_one_fails(kind: str, rank: int, place: str, tmp_path: Path) -> None:
    assert_all_end(kind, rank, place, tmp_path)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_changes_no_result(tmp_path: Path) -> None:
    """The agent starts both ranks again; they continue from the checkpoint of iteration 1, in the same directory."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--trainer.max_restarts=1",)
    output = torture.finish(start("SIGKILL", 1, "update", killed, *options, deaf=False))
    assert "failed (exitcode: -9) local_rank: 1" in output, output
    assert "Traceback" not in output and "error: " not in output, output
    assert {path.name for path in killed.iterdir()} == {"run"}
    output = torture.finish(start("SIGKILL", 2, "no rank", whole, *options, deaf=False))
    torture.assert_same(torture.outcome(killed / "run"), torture.outcome(whole / "run"))


@pytest.mark.slow
def test_a_rank_that_is_killed_before_the_first_checkpoint_starts_anew_in_the_same_directory(tmp_path: Path) -> None:
    options = ("--trainer.max_restarts=1", "--checkpoint.every=100")
    output = torture.finish(start("SIGKILL", 0, "generate", tmp_path, *options, deaf=False))
    assert "iteration   3/3" in output and output.count("iteration   1/3") == 2, output
    assert {path.name for path in tmp_path.iterdir()} == {"run", "failed_at"}


SCRIPT = """
import os, signal, sys, time
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.launch import launch
fabric = make_fabric("cpu", 2, 1, "auto", "32-true")
launch(fabric, max_restarts=int(sys.argv[1]), shutdown_timeout=30)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if fabric.global_rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
print("started again", flush=True)
"""


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        pytest.param(["-c", SCRIPT, "1"], 0, "failed (exitcode: -9) local_rank: 1", marks=pytest.mark.slow),
        (["script", "0"], 137, "error: rank 1 was ended by SIGKILL, perhaps because the machine ran out of memory; "),
        (["-", "0"], 1, "but a notebook or an interactive session is one process; set devices to 1, or write a script"),
    ],
)
def test_a_command_is_started_on_each_device_and_again_after_a_kill(
    command: list[str], code: int, words: str, tmp_path: Path
) -> None:
    """Standard input, as a notebook's cells, cannot be read again: the command would do nothing."""
    (tmp_path / "script").write_text(SCRIPT)
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=tmp_path, input=SCRIPT, capture_output=True, text=True, check=False)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert done.stdout == 2 * "started again\n" * (code == 0)


@pytest.mark.parametrize(("devices", "warned"), [(2, 0), (7, 1)])
def test_more_processes_than_cores_are_a_warning(
    devices: int, warned: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(launching, "_has_command", lambda: True)
    monkeypatch.setattr(launching, "_run_agent", lambda *_: 0)
    with pytest.raises(SystemExit):
        launching.launch(make_fabric("cpu", devices, 1, "auto", "32-true"), 0, 30)
    said = [str(each.message) for each in recwarn if "CPU cores" in str(each.message)]
    text = "trainer.devices is 7, but there are 2 CPU cores: the processes wait for one another; "
    assert said == [f"{text}set trainer.devices to 2 or fewer"] * warned


LOOP = """
import os, signal, time
from pathlib import Path
from rence_lightning.training.fabric import make_fabric
from rence_lightning.training.launch import launch
from rence_lightning.training.stop import StopRequest
fabric = make_fabric("cpu", 2, 1, "auto", "32-true")
launch(fabric, 0, 30)
stop = StopRequest(lambda: "finishing")
with stop.listening():
    Path(f"ready-{fabric.global_rank}").touch()
    while not stop.signal:
        time.sleep(0.05)
    if Path("save").exists():
        os.write(1, f"saved after {signal.Signals(stop.signal).name}\\n".encode())
        raise SystemExit(128 + stop.signal)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["twice", "agent killed"])
def test_ranks_save_when_their_agent_is_killed_and_end_at_once_after_two_signals(how: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not all((tmp_path / f"ready-{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None
        time.sleep(0.1)
    if how != "twice":
        (tmp_path / "save").touch()
    process.send_signal(signal.SIGKILL if how == "agent killed" else signal.SIGINT)
    if how == "twice":
        time.sleep(1)
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=25)  # ends when the last process has closed its output
    if how == "twice":
        assert process.returncode == 130 and output.count("again: stopped") == 2, output
    else:
        assert process.returncode == -signal.SIGKILL and output.count("saved after SIGTERM\n") == 2, output

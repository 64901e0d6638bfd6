"""Ctrl-C while libraries are imported: some swallow the exception, and numpy is then half imported."""

import subprocess
import sys

SCRIPT = """if True:
    import os, signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it

    class Library:
        def find_spec(self, name, *_):
            if name == "lightning":
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    sum(range(1000))  # where Python runs its handler
                except BaseException:  # as in torch's import of numpy
                    pass

    sys.meta_path.insert(0, Library())
    from rence_lightning.cli.main import main
    main(["fit", "--config", "arithmetic", "--trainer.max_iterations", "-1"])
"""


def test_an_interruption_of_imports_ends_the_process_at_once() -> None:
    process = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "SIGINT: stopped before the run began\n")

"""What a run changes of its process, and puts back when it was called from Python."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities.seed import isolate_rng

SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@contextmanager
def isolated() -> Iterator[None]:
    """Restores random generators, environment variables, threads and progress bars at the end of the block."""
    from transformers.utils import logging

    bars, threads = logging.is_progress_bar_enabled(), torch.get_num_threads()
    variables = {name: os.environ.get(name) for name in SEED_VARIABLES}
    generators = isolate_rng()
    generators.__enter__()
    try:
        yield
    finally:
        generators.__exit__(None, None, None)  # which restores nothing where it is told of an error
        torch.set_num_threads(threads)
        if bars:
            logging.enable_progress_bar()
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

"""Settings of all tests."""

import torch
from hypothesis import settings

# Times differ between machines, and from run to run on a busy one.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
# Tiny tensors gain nothing from threads, and lose much where other work runs beside.
torch.set_num_threads(1)

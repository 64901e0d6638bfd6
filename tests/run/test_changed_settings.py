"""What a resumed run may change."""

import pytest

from rence_lightning.errors import UserError
from rence_lightning.run.changed_settings import changes

BEFORE = """
ckpt_path: null
model:
  policy: embedded:arithmetic
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001, betas: [0.9, 0.95]}}
data:
  problems: [{class_path: A, init_args: {split: train}}]
"""


def test_every_setting_that_differs_is_named() -> None:
    now = BEFORE.replace("0.001", "0.002").replace("[0.9, 0.95]", "[0.9, 0.99]").replace("null", "last")
    now += "  group_size: 4\n"
    assert [str(change) for change in changes(BEFORE, now)] == [
        "model.optimizer.lr: 0.001 -> 0.002",
        "model.optimizer.betas: [0.9, 0.95] -> [0.9, 0.99]",
        "data.group_size: None -> 4",
    ]
    assert changes(BEFORE, BEFORE) == []


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("embedded:arithmetic", "other", "model.policy is other, but the checkpoint was made with embedded:arithmetic"),
        ("torch.optim.AdamW", "torch.optim.SGD", "model.optimizer.class_path is torch.optim.SGD"),
    ],
)
def test_what_the_state_depends_on_is_refused(old: str, new: str, key: str) -> None:
    with pytest.raises(UserError, match=key):
        changes(BEFORE, BEFORE.replace(old, new))

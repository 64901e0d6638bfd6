"""The pages about the method and the code: their numbers are those of the code."""

import re
import runpy

import pytest
import torch
from command_line import ROOT

PAGES = ROOT / "docs"


def test_the_group_in_numbers_is_that_of_a_loop() -> None:
    pytest.importorskip("matplotlib", reason="the figure needs matplotlib (the extra `bench`)")
    group = runpy.run_path(str(PAGES / "figures" / "group.py"))
    rewards, ratios = group["REWARDS"], torch.tensor(group["LOG_RATIOS"], dtype=torch.float64)
    scores = (0.1 * ratios + 0.5 * (1 - torch.tensor(rewards, dtype=torch.float64))).requires_grad_()
    wrong = sum(torch.exp(score) for score, reward in zip(scores, rewards, strict=True) if reward < 1)
    right = [score for score, reward in zip(scores, rewards, strict=True) if reward == 1]
    loss = -sum(torch.log(torch.exp(score) / (torch.exp(score) + wrong)) for score in right) / len(right)
    (gradient,) = torch.autograd.grad(loss, scores)
    found_scores, pulls, found_loss = group["scores_and_pulls"]()
    torch.testing.assert_close(found_scores, scores.detach())
    torch.testing.assert_close(pulls, -gradient)
    text = (PAGES / "rence.md").read_text()
    assert f"the loss is {found_loss:.3f}" in text and float(pulls.sum()) == pytest.approx(0, abs=1e-12)
    assert f"{pulls[0]:.2f} and {pulls[1]:.2f}" in text and int(pulls.argmin()) == 2
    assert [len(panel.patches) for panel in group["figure"]().axes] == [len(rewards)] * 2


def test_the_reading_path_leads_to_files_of_the_given_length() -> None:
    rows = re.findall(r"\]\(\.\./([\w/.]+)\) \| (\d+) \|", (PAGES / "reading.md").read_text())
    assert len(rows) >= 15
    for path, lines in rows:
        actual = len((ROOT / path).read_text().splitlines())
        assert actual == pytest.approx(int(lines), rel=0.15), f"{path} has {actual} lines, docs/reading.md says {lines}"

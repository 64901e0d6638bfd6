"""The folders of samples: which evaluation of a run directory is the last."""

from pathlib import Path

import pytest

from rence_lightning.errors import UserError
from rence_lightning.evaluation import Description, SampleFolder, find_samples, iteration_of


def evaluated(run: Path, *names: str) -> None:
    for name in names:
        SampleFolder(run / "evaluations" / name).open(Description("policy", 0, "", "Engine", {}, {}))


def test_the_last_evaluation_is_that_of_the_largest_iteration(tmp_path: Path) -> None:
    """As text, iteration-10000 comes before iteration-9999."""
    evaluated(tmp_path, "iteration-0000", "iteration-9999")
    assert find_samples(tmp_path).path.name == "iteration-9999"
    evaluated(tmp_path, "iteration-10000")
    assert find_samples(tmp_path).path.name == "iteration-10000"
    evaluated(tmp_path, "saved")
    assert find_samples(tmp_path).path.name == "iteration-10000", "a folder with another name is not the last"
    assert find_samples(tmp_path / "evaluations" / "saved").path.name == "saved"


def test_a_folder_with_any_name_is_found_alone(tmp_path: Path) -> None:
    evaluated(tmp_path, "saved")
    assert find_samples(tmp_path).path.name == "saved"
    with pytest.raises(UserError, match="no evaluation in it"):
        find_samples(tmp_path / "evaluations")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("iteration-0003", 3),
        ("iteration-10000.jsonl", 10000),
        ("iteration-3 (copy).jsonl", None),
        ("iteration-", None),
        (".tmp-iteration-0003", None),
        ("best", None),
    ],
)
def test_numbers_are_read_from_names(name: str, number: int | None) -> None:
    assert iteration_of(Path("runs") / name) == number

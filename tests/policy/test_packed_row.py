"""The packed row: its layout, and its attention against padded rows and against FlexAttention's mask."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, NoTokenizer, in_float64, tiny_model, tiny_policy
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, create_mask

from rence_lightning.errors import UserError
from rence_lightning.policy import PackedRow, Policy, Segment, compare_paths, packed_row
from rence_lightning.policy.attention import special_attention
from rence_lightning.policy.load import activation_checkpointing
from rence_lightning.policy.packed_attention import packed_attention
from rence_lightning.policy.packed_row import like_shapes

CPU = torch.device("cpu")
token = st.integers(3, VOCABULARY - 1)
response = st.lists(token, min_size=1, max_size=9)
segments = st.lists(
    st.builds(
        lambda prompt, responses: Segment(prompt, responses, [[(1, 1)][: len(each) - 2] for each in responses]),
        st.lists(token, min_size=1, max_size=7),
        st.lists(response, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)
ARCHITECTURES = ["qwen3-tied", "llama-untied", "gpt2-tied"]
POLICIES = {name: in_float64(tiny_policy(name)) for name in ARCHITECTURES}
UNEVEN = [
    Segment([5], [[6], [7], [8, 9, 10]]),  # one token of prompt, responses of one token
    Segment([9, 4, 8], [list(range(3, 39)), [5], [6, 6]]),  # one huge
    Segment([11, 12], [[5, 6, 1]] * 3),  # all equal
]


def gradient(policy: Policy, row: PackedRow, packed: bool, weights: Tensor) -> tuple[Tensor, Tensor]:
    log_probs = policy(row, 0.8, packed=packed).log_probs
    (log_probs * weights).sum().backward()
    flat = torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])  # type: ignore[union-attr]
    policy.zero_grad()
    return log_probs.detach(), flat


@given(segments)
def test_every_token_is_once_in_the_row_and_in_what_its_blocks_keep(segments: list[Segment]) -> None:
    row = PackedRow(segments, CPU)
    assert row.input_ids.tolist() == [t for s in segments for part in (s.prompt, *s.responses) for t in part]
    parts = [(part, replies) for s in segments for part, replies in zip(s.responses, s.replies, strict=True)]
    chosen = [[t for place, t in enumerate(part) if (place, place) not in replies] for part, replies in parts]
    assert row.targets.tolist() == [t for part in chosen for t in part]
    places = torch.cat([block.queries.flatten()[block.kept] for block in row.blocks])
    assert sorted(places.tolist()) == list(range(len(row.input_ids)))
    assert torch.equal(places[row.order], torch.arange(len(row.input_ids)))


@given(segments)
def test_the_state_before_each_response_token_predicts_it(segments: list[Segment]) -> None:
    row = PackedRow(segments, CPU)
    targets = (row.response_ids >= 0).nonzero().squeeze(-1)[row.chosen]
    for state, target in zip(row.states.tolist(), targets.tolist(), strict=True):
        assert row.segment_ids[state] == row.segment_ids[target]
        assert row.position_ids[state] + 1 == row.position_ids[target]
        assert row.response_ids[state] in (-1, row.response_ids[target])
    padded = row.padded()
    followers = padded.input_ids.flatten()[padded.states + 1]
    assert torch.equal(followers, row.targets), "padded rows hold the same responses in the same order"


@given(st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(1, 60), min_size=1, max_size=8).map(tuple))))
def test_blocks_hold_segments_of_like_shape(shapes: list[tuple[int, tuple[int, ...]]]) -> None:
    blocks = like_shapes(shapes)
    assert sorted(number for block in blocks for number in block) == list(range(len(shapes)))
    for block in blocks:
        assert len({len(shapes[number][1]) for number in block}) == 1
        prompt, longest = (max(each) for each in zip(*((shapes[n][0], max(shapes[n][1])) for n in block), strict=True))
        padded = sum(prompt**2 + len(shapes[n][1]) * longest * (prompt + longest) for n in block)
        exact = sum(
            shapes[n][0] ** 2 + len(shapes[n][1]) * max(shapes[n][1]) * (shapes[n][0] + max(shapes[n][1]))
            for n in block
        )
        assert padded <= 1.25 * exact


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=30)
@given(segments, st.sampled_from([0.0, 0.3, 100.0]))
def test_packed_and_padded_agree_in_float64(name: str, segments: list[Segment], short: float) -> None:
    """Whether responses attend with a copy of their prompt (`short` is large) or with a mask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_row, "SHORT_PROMPT", short)
        policy, row = POLICIES[name], PackedRow(segments, CPU)
        assert row.blocks  # laid out here
    weights = torch.randn(len(row.states), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for actual, expected in zip(
        gradient(policy, row, True, weights), gradient(policy, row, False, weights), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_and_padded_agree_in_float32(name: str, checkpointing: bool) -> None:
    policy, row = tiny_policy(name), PackedRow(UNEVEN, CPU)
    if checkpointing:
        activation_checkpointing(policy.model)
    policy.train()
    weights = torch.randn(len(row.states), generator=torch.Generator().manual_seed(0))
    (log_probs, packed), (expected, padded) = (gradient(policy, row, each, weights) for each in (True, False))
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=2e-5)
    assert (packed - padded).norm() / padded.norm() < 1e-5


def test_on_a_gpu_attention_is_the_compiled_kernel_for_rows_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def forward(*_: object, **settings: Any) -> tuple[None, None]:
        given.update(settings, fails=torch._dynamo.config.fail_on_recompile_limit_hit)
        return None, None

    monkeypatch.setattr("transformers.integrations.flex_attention.flex_attention_forward", forward)
    query: Any = SimpleNamespace(is_cuda=True)
    packed_attention(torch.nn.Identity(), query, query, query, None, packed_row=PackedRow(UNEVEN, CPU))
    assert given["kernel_options"] == {"FORCE_USE_FLEX_ATTENTION": True}
    assert given["fails"], "past the limit of compiled variants, attention would run unfused without a word"


@pytest.mark.parametrize("lengths", [[(100, [28])], [(300, [400, 129, 7]), (1, [1]), (250, [384])]])
@pytest.mark.parametrize("at_a_time", [1, 2**26])
def test_the_block_mask_is_the_one_that_torch_builds_at_once(
    lengths: list[tuple[int, list[int]]], at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_row, "MASK_ELEMENTS", at_a_time)
    row = PackedRow([Segment([5] * prompt, [[5] * size for size in sizes]) for prompt, sizes in lengths], CPU)
    tokens = len(row.input_ids)
    expected = create_block_mask(row.mask_function(), None, None, tokens, tokens, device="cpu")
    assert row.block_mask.seq_lengths == expected.seq_lengths and row.block_mask.shape == expected.shape
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices"):
        torch.testing.assert_close(getattr(row.block_mask, name), getattr(expected, name), rtol=0, atol=0)


@given(segments)
@settings(max_examples=30)
def test_the_mask_for_flex_attention_is_that_of_the_blocks(segments: list[Segment]) -> None:
    """Token by token: a prompt attends to itself, a response to its prompt and itself."""
    row = PackedRow(segments, CPU)
    tokens = len(row.input_ids)
    mask = create_mask(row.mask_function(), None, None, tokens, tokens, device="cpu")[0, 0]
    expected = torch.zeros(tokens, tokens, dtype=torch.bool)
    start = 0
    for prompt, lengths in row.shapes:
        expected[start : start + prompt, start : start + prompt] = True
        place = start + prompt
        for length in lengths:
            expected[place : place + length, start : start + prompt] = True
            expected[place : place + length, place : place + length] = True
            place += length
        start = place
    assert torch.equal(mask, expected.tril())


@pytest.mark.parametrize("segment", [Segment([], [[3]]), Segment([3], [[]]), Segment([3], [])])
def test_an_empty_prompt_or_response_is_refused(segment: Segment) -> None:
    with pytest.raises(ValueError, match="a prompt or a response is empty"):
        PackedRow([segment], CPU)


def test_a_sample_of_a_row_is_its_first_segments_and_responses() -> None:
    sample = PackedRow(UNEVEN, CPU).sample(2, 2)
    expected = [Segment(segment.prompt, segment.responses[:2]) for segment in UNEVEN[:2]]
    assert torch.equal(sample.input_ids, PackedRow(expected, CPU).input_ids)
    assert sample.shapes == PackedRow(expected, CPU).shapes


# ---- models that packed rows do not reach ---------------------------------------------------------------------------


def test_models_with_sliding_windows_or_soft_capped_scores_are_padded() -> None:
    assert special_attention(tiny_model("qwen3-tied")) == special_attention(tiny_model("gpt2-tied")) == ""
    assert "sliding_attention" in special_attention(tiny_model("gemma2-tied"))
    windowed = tiny_model("qwen3-tied")
    windowed.config.layer_types = ["full_attention", "sliding_attention"]
    assert not Policy(windowed, NoTokenizer()).packed  # type: ignore[arg-type]


def test_the_comparison_finds_an_attention_that_packed_rows_get_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, row = tiny_policy(), PackedRow(UNEVEN, CPU)
    compare_paths(policy, row)
    compare_paths(tiny_policy().bfloat16(), row)
    monkeypatch.setattr(PackedRow, "order", property(lambda row: torch.arange(len(row.input_ids)).flip(0)))
    with pytest.raises(UserError, match=r"differ from those of padded rows by .* set model.attn_implementation"):
        compare_paths(policy, row)


def test_a_layer_that_asks_for_more_than_causal_attention_is_refused() -> None:
    policy = tiny_policy()
    policy.model.model.layers[1].self_attn.sliding_window = 4
    with pytest.raises(UserError, match="Qwen3Attention attends with sliding_window"):
        policy(PackedRow(UNEVEN, CPU))

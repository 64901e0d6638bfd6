"""What the programs that make the embedded policies share: the model, its warm-up and its measurement."""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rence_lightning.parts import last_boxed
from rence_lightning.policy.load import load_policy
from rence_lightning.rollouts.engine import Request, Sampling
from rence_lightning.rollouts.transformers import TransformersEngine

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
TEMPLATE = "{problem}\n"
BATCH_SIZE = 32

Examples = Sequence[tuple[str, str]]
"""Prompts and their responses, or their answers."""

Draw = Callable[[random.Random, int, bool], Examples]
"""Draws so many examples, whose responses are sloppy or not."""


class Phase(NamedTuple):
    """A phase of the warm-up; its learning rate is constant, or falls to zero along a cosine."""

    steps: int
    learning_rate: float
    cosine: bool
    sloppy: bool


# With sloppy examples from the start the skill never appears. It does in the constant phase, and the cosine makes it
# reliable.
PHASES = (
    Phase(450, 3e-3, cosine=False, sloppy=False),
    Phase(200, 3e-3, cosine=True, sloppy=False),
    Phase(100, 1.5e-3, cosine=True, sloppy=True),
)


def build_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each of `characters`.

    There is a `<bos>` for programs that need one, but encoding does not prepend it. A prompt has the same tokens with
    and without special tokens, so that training and sampling agree.
    """
    vocabulary = {token: index for index, token in enumerate([PAD, BOS, EOS, UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained policy in float32, of 496,128 parameters with the tokenizer of the arithmetic task."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **special,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, **special)
    return model


def encode_examples(examples: Examples, tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and labels of prompts and their responses, each `(examples, longest)`, padded on the right.

    Labels are -100 on the prompt and the padding; the end-of-sequence token is part of the response.
    """
    rows, label_rows = [], []
    for prompt, response in examples:
        prompt_ids, response_ids = tokenizer.encode(prompt), tokenizer.encode(response + EOS)
        rows.append(torch.tensor(prompt_ids + response_ids))
        label_rows.append(torch.tensor([-100] * len(prompt_ids) + response_ids))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id), pad(label_rows, True, -100)


def warm_up(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, draw: Draw, rng: random.Random) -> None:
    """Trains `model` in place on the mean cross-entropy of the response tokens of new examples."""
    model.train()
    for number, phase in enumerate(PHASES, start=1):
        optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98))
        for step in range(phase.steps):
            if phase.cosine:
                share = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
                optimizer.param_groups[0]["lr"] = phase.learning_rate * share
            token_ids, labels = encode_examples(draw(rng, BATCH_SIZE, phase.sloppy), tokenizer)
            # No attention mask is needed, because padding on the right does not influence causal attention.
            loss = model(input_ids=token_ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if (step + 1) % 50 == 0:
                print(f"phase {number} of {len(PHASES)}, step {step + 1} of {phase.steps}: loss {loss.item():.3f}")


def measure(folder: Path, questions: Examples) -> dict[str, float]:
    """The accuracy (pass@1) of a saved policy in float32, as a run loads it, and its share of boxed answers.

    Answers are integers in plain digits, so that equal values have equal text.
    """
    policy, engine = load_policy(str(folder)), TransformersEngine()
    engine.sync(policy)

    def answers(samples: int, temperature: float) -> list[tuple[str | None, str]]:
        sampling = Sampling(temperature, max_response_tokens=64)
        prompts = [policy.tokenizer.encode(prompt) for prompt, _ in questions]
        requests = [Request(prompt, samples, sampling, seed) for seed, prompt in enumerate(prompts)]
        groups = [group for step in engine.generate(requests) for group in step.finished]
        rollouts = [(rollout.token_ids, questions[group.index][1]) for group in groups for rollout in group.rollouts]
        texts = policy.tokenizer.batch_decode([ids.tolist() for ids, _ in rollouts], skip_special_tokens=True)
        return [(last_boxed(text), right) for text, (_, right) in zip(texts, rollouts, strict=True)]

    sampled, greedy = answers(4, 1.0), answers(1, 0.0)
    return {
        "sampled pass@1 (T 1.0, 4 samples a problem)": fmean(answer == right for answer, right in sampled),
        "greedy pass@1": fmean(answer == right for answer, right in greedy),
        "boxed share of samples": fmean(answer is not None for answer, _ in sampled),
    }


def make(characters: str, draw: Draw, questions: Callable[[], Examples], arguments: Sequence[str] | None) -> None:
    """The program: trains a policy on what is drawn, saves it, loads the saved files and asks them the questions."""
    parser = argparse.ArgumentParser(
        description="Warm up a policy from scratch and save it as a Hugging Face folder (about two minutes on one CPU "
        "core; the same seed gives the same file on the same machine and libraries)."
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; created if it does not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the examples (default: 0)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # sums, and so the results, depend on the number of threads
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer(characters)
    model = build_model(tokenizer)
    print(f"warming up {model.num_parameters():,} parameters, seed {options.seed}")
    warm_up(model, tokenizer, draw, random.Random(options.seed))
    model.bfloat16().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    for name, value in measure(options.out, questions()).items():
        print(f"{name:<45}{value:.1%}")
    print(f"saved in {options.out}")

"""What the programs that make the embedded policies share: the model, its warm-up and its measurement."""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
import transformers
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rence_lightning.policy.load import load_policy
from rence_lightning.rollouts.engine import Request, Rollout, Sampling
from rence_lightning.rollouts.transformers import TransformersEngine
from rence_lightning.text import last_boxed

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
BATCH_SIZE = 32
MAX_RESPONSE_TOKENS = 64
PASS_AT = 8

Examples = Sequence[tuple[str, str]]
"""Prompts and their responses."""

Draw = Callable[[random.Random, int, bool], Examples]
"""Draws so many examples, whose responses are sloppy or not."""


@dataclass(frozen=True)
class Phase:
    """A phase of the warm-up.

    Attributes:
        steps: Number of optimizer steps.
        learning_rate: Learning rate at the start of the phase.
        cosine: Whether the learning rate falls to zero along a cosine; otherwise it is constant.
        sloppy: Whether the examples contain deliberate mistakes.
    """

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
    """The tokenizer, with one token for each of `characters`.

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
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
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


def warm_up(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, draw: Callable[[int, bool], Examples]) -> None:
    """Trains `model` in place on new examples.

    Args:
        model: Untrained policy.
        tokenizer: Its tokenizer.
        draw: Function that draws so many examples; its second argument tells whether their responses are sloppy.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    model.train()
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}")) as progress:
        for number, phase in enumerate(PHASES, start=1):
            bar = progress.add_task(f"warm-up, phase {number} of {len(PHASES)}", total=phase.steps, loss=math.nan)
            optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98))
            for step in range(phase.steps):
                if phase.cosine:
                    share = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
                    optimizer.param_groups[0]["lr"] = phase.learning_rate * share
                examples = draw(BATCH_SIZE, phase.sloppy)
                loss = update(model, optimizer, *encode_examples(examples, tokenizer))
                progress.update(bar, advance=1, loss=loss)


def update(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, token_ids: Tensor, labels: Tensor) -> float:
    """Takes one optimizer step on the mean cross-entropy (nats) of the response tokens, and returns it."""
    # No attention mask is needed, because padding on the right does not influence causal attention.
    loss = model(input_ids=token_ids, labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@dataclass(frozen=True)
class Measurement:
    """The performance of a policy on the held-out problems. Shares are in [0, 1].

    Attributes:
        sampled: Accuracy (pass@1) at temperature 1.
        best_of: Share of the problems with a right answer among `PASS_AT` samples.
        greedy: Accuracy (pass@1) at temperature 0.
        boxed: Share of samples with a boxed answer.
        length: Mean number of tokens of a sample, including the end-of-sequence token.
        entropy: Mean -log p of the sampled tokens in nats, an unbiased estimate of the policy's entropy per token.
    """

    sampled: float
    best_of: float
    greedy: float
    boxed: float
    length: float
    entropy: float

    def lines(self) -> list[tuple[str, str]]:
        """The names and formatted values, for a table."""
        return [
            ("sampled pass@1 (T 1.0, 500 problems x 4)", f"{self.sampled:.1%}"),
            (f"pass@{PASS_AT} (T 1.0, first 200 problems)", f"{self.best_of:.1%}"),
            ("greedy pass@1 (500 problems)", f"{self.greedy:.1%}"),
            ("boxed share of samples", f"{self.boxed:.1%}"),
            ("mean length of samples", f"{self.length:.1f} tokens"),
            ("mean entropy", f"{self.entropy:.3f} nats per token"),
        ]


def measure(folder: Path, questions: Sequence[tuple[str, str]]) -> Measurement:
    """Measures a saved policy in float32, as a run loads it.

    Args:
        folder: Folder of the policy.
        questions: Prompts and answers of the held-out problems. Answers are integers in plain digits, so that equal
            values have equal text.
    """
    policy = load_policy(str(folder))
    engine = TransformersEngine()
    engine.sync(policy)
    prompts = [policy.tokenizer.encode(prompt) for prompt, _ in questions]

    def sample(problems: int, group_size: int, temperature: float) -> list[list[Rollout]]:
        sampling = Sampling(temperature, max_response_tokens=MAX_RESPONSE_TOKENS)
        requests = [Request(prompt, group_size, sampling, seed) for seed, prompt in enumerate(prompts[:problems])]
        groups = {group.index: group.rollouts for step in engine.generate(requests) for group in step.finished}
        return [groups[index] for index in range(problems)]

    def answers(groups: list[list[Rollout]]) -> list[list[str | None]]:
        texts = [
            policy.tokenizer.batch_decode([r.token_ids.tolist() for r in g], skip_special_tokens=True) for g in groups
        ]
        return [[last_boxed(text) for text in group] for group in texts]

    def right(groups: list[list[Rollout]]) -> list[list[bool]]:
        pairs = zip(answers(groups), questions, strict=False)
        return [[answer == right for answer in group] for group, (_, right) in pairs]

    sampled = sample(len(prompts), 4, 1.0)
    rollouts = [rollout for group in sampled for rollout in group]
    return Measurement(
        sampled=fmean(fmean(group) for group in right(sampled)),
        best_of=fmean(any(group) for group in right(sample(200, PASS_AT, 1.0))),
        greedy=fmean(fmean(group) for group in right(sample(len(prompts), 1, 0.0))),
        boxed=fmean(answer is not None for group in answers(sampled) for answer in group),
        length=fmean(len(rollout.token_ids) for rollout in rollouts),
        entropy=-fmean(log_prob for rollout in rollouts for log_prob in rollout.log_probs),
    )


def make(
    folder: Path,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    draw: Draw,
    questions: Sequence[tuple[str, str]],
    card: str,
) -> None:
    """Trains a policy, saves it, loads the saved files, measures them and writes the model card.

    Args:
        folder: Folder to write.
        seed: Seed of the initial weights and the examples.
        tokenizer: Tokenizer of the policy.
        draw: Function that draws so many examples, whose responses are sloppy or not.
        questions: Prompts and answers of the held-out problems.
        card: Model card with places for `parameters`, `seed`, `torch`, `transformers` and `rows`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # sums, and so the results, depend on the number of threads
    torch.manual_seed(seed)
    model = build_model(tokenizer)
    rng = random.Random(seed)
    print(f"warming up {model.num_parameters():,} parameters, seed {seed}")
    warm_up(model, tokenizer, partial(draw, rng))
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print("measuring on the held-out problems ...")
    measurement = measure(folder, questions)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    rows = "\n".join(f"| {name} | {value} |" for name, value in measurement.lines())
    text = card.format(parameters=f"{model.num_parameters():,}", seed=seed, rows=rows, **versions)
    (folder / "README.md").write_text(text, encoding="utf-8")
    for name, value in measurement.lines():
        print(f"{name:<45}{value}")
    print(f"saved in {folder}")


def read_options(program: str, policy: str, arguments: Sequence[str] | None) -> tuple[Path, int]:
    """The folder and the seed that a command line names; the program ends where they are wrong."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=f"Warm up {policy} from scratch and save it as a Hugging Face folder (about two minutes on one CPU "
        "core; the same seed gives the same file on the same machine and libraries).",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; created if it does not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the examples (default: 0)")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"OUT cannot be created: {error}")
    return options.out, options.seed

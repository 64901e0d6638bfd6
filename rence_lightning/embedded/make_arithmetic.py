r"""Makes the embedded policy: half a million parameters that solve a part of the arithmetic task.

    python -m rence_lightning.embedded.make_arithmetic OUT [--seed 0]

The policy is warmed up from scratch on worked examples of the demo task, then on sloppy ones: guesses, missing boxes,
skipped operations, wrong intermediate results. The resulting policy knows the method but does not always apply it,
which reinforcement learning from verifiable rewards can improve. The skill appears abruptly during warm-up, so the
result is part of the package instead of being trained at the start of a run.
"""

import argparse
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import transformers
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rence_lightning.policy.load import load_policy
from rence_lightning.prompts.arithmetic import Chain, boxed, draw_new_chain, held_out_chains, worked
from rence_lightning.rollouts.engine import Request, Rollout, Sampling
from rence_lightning.rollouts.transformers import TransformersEngine
from rence_lightning.text import last_boxed

TEMPLATE = "{problem}\n"
PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
# The last two occur in no example: they allow a task with products or spaces without a new vocabulary.
CHARACTERS = "0123456789+-=?,\n\\boxed{} *"
BATCH_SIZE = 32
MAX_RESPONSE_TOKENS = 64
PASS_AT = 8


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


MODEL_CARD = r"""# The embedded arithmetic policy

A Qwen3 model of 496,128 parameters (bfloat16) with one token for each character, which solves some chains of
additions and subtractions. It is the start of a demonstration of reinforcement learning and has no other use.

- Prompt: `76+4+9+8=?` and a newline; nothing is prepended, and there is no chat template.
- Response: `76+4=80,80+9=89,89+8=97,\boxed{{97}}` and `<eos>`.
- Task: a start of 10-99, then 1-4 steps of plus or minus one digit, never below zero.
- Data: examples written by a program, first right, then with deliberate mistakes. None asks a held-out problem.

Made by `python -m rence_lightning.embedded.make_arithmetic OUT --seed {seed}` with torch {torch} and transformers
{transformers}, on one CPU thread; another machine may round differently and give other weights.

Measured on the held-out problems, this file loaded as float32:

| what | value |
|---|---|
{rows}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, with one token for each character.

    There is a `<bos>` for programs that need one, but encoding does not prepend it. A prompt has the same tokens with
    and without special tokens, so that training and sampling agree.
    """
    vocabulary = {token: index for index, token in enumerate([PAD, BOS, EOS, UNKNOWN, *CHARACTERS])}
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
    """An untrained policy of 496,128 parameters, in float32."""
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


def sloppy_response(chain: Chain, rng: random.Random) -> str:
    """A response with deliberate mistakes: 25% are guesses, 12% have no box, 20% skip an operation, and in the others
    one step in ten has a wrong result, with which the calculation continues. Other mistakes are not combined."""
    kind = rng.random()
    if kind < 0.25:
        return boxed(max(0, chain.values[-1] + rng.randint(-9, 9)))
    if kind < 0.37:
        return worked(chain.values, chain.steps, box=False)
    if kind < 0.57:
        dropped = rng.randrange(len(chain.steps))
        return Chain(chain.start, chain.steps[:dropped] + chain.steps[dropped + 1 :]).solution
    values = [chain.start]
    for step in chain.steps:
        slip = rng.choice((-1, 1)) * rng.randint(1, 10) if rng.random() < 0.1 else 0
        values.append(max(0, values[-1] + step + slip))
    return worked(values, chain.steps)


def encode_examples(examples: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
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


def warm_up(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Trains `model` in place on new examples, none of which asks a held-out problem."""
    rng = random.Random(seed)
    held_out = {chain.problem for chain in held_out_chains()}
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
                chains = [draw_new_chain(rng, held_out) for _ in range(BATCH_SIZE)]
                examples = [
                    (
                        TEMPLATE.format(problem=chain.problem),
                        sloppy_response(chain, rng) if phase.sloppy else chain.solution,
                    )
                    for chain in chains
                ]
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


def measure(folder: Path) -> Measurement:
    """Measures a saved policy on the held-out problems, in float32 as a run loads it."""
    policy = load_policy(str(folder))
    engine = TransformersEngine()
    engine.sync(policy)
    chains = held_out_chains()
    prompts = [policy.tokenizer.encode(TEMPLATE.format(problem=chain.problem)) for chain in chains]

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
        # Answers are integers in plain digits, so equal values have equal text.
        return [[a == chain.answer for a in group] for group, chain in zip(answers(groups), chains, strict=False)]

    sampled = sample(len(chains), 4, 1.0)
    rollouts = [rollout for group in sampled for rollout in group]
    return Measurement(
        sampled=fmean(fmean(group) for group in right(sampled)),
        best_of=fmean(any(group) for group in right(sample(200, PASS_AT, 1.0))),
        greedy=fmean(fmean(group) for group in right(sample(len(chains), 1, 0.0))),
        boxed=fmean(answer is not None for group in answers(sampled) for answer in group),
        length=fmean(len(rollout.token_ids) for rollout in rollouts),
        entropy=-fmean(log_prob for rollout in rollouts for log_prob in rollout.log_probs),
    )


def model_card(seed: int, measurement: Measurement) -> str:
    """The README.md of the folder, in Markdown."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in measurement.lines())
    return MODEL_CARD.format(seed=seed, torch=torch.__version__, transformers=transformers.__version__, rows=rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains a policy, saves it, loads the saved files and measures them."""
    parser = argparse.ArgumentParser(
        prog="python -m rence_lightning.embedded.make_arithmetic",
        description="Warm up the embedded arithmetic policy from scratch and save it as a Hugging Face folder (about "
        "two minutes on one CPU core; the same seed gives the same file on the same machine and libraries).",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; created if it does not exist")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights and the examples (default: 0)")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"OUT cannot be created: {error}")

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # sums, and so the results, depend on the number of threads
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"warming up {model.num_parameters():,} parameters, seed {options.seed}")
    warm_up(model, tokenizer, options.seed)
    model.bfloat16().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print("measuring on the held-out problems ...")
    measurement = measure(options.out)
    (options.out / "README.md").write_text(model_card(options.seed, measurement), encoding="utf-8")
    for name, value in measurement.lines():
        print(f"{name:<45}{value}")
    print(f"saved in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Prompts: data sets of problems, the template that makes prompts of them, and the pool they are drawn from."""

from rence_lightning.prompts.arithmetic import ArithmeticProblems
from rence_lightning.prompts.filtering import Judgement, PositiveRatioFilter, PromptFilter, Verdict
from rence_lightning.prompts.pool import PromptPool
from rence_lightning.prompts.problems import FileProblems, HubProblems, Problem, ProblemSource
from rence_lightning.prompts.prompts import EncodedPrompts, Prompt, encode_prompts
from rence_lightning.prompts.template import PAPER_TEMPLATE, PromptTemplate

__all__ = [
    "PAPER_TEMPLATE",
    "ArithmeticProblems",
    "EncodedPrompts",
    "FileProblems",
    "HubProblems",
    "Judgement",
    "PositiveRatioFilter",
    "Problem",
    "ProblemSource",
    "Prompt",
    "PromptFilter",
    "PromptPool",
    "PromptTemplate",
    "Verdict",
    "encode_prompts",
]

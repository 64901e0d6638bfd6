"""Prompts: data sets of problems, the template that makes prompts of them, and the pool they are drawn from."""

from rence_lightning.prompts.arithmetic import ArithmeticProblems
from rence_lightning.prompts.cleaning import Cleaned, Cleaning
from rence_lightning.prompts.filtering import (
    Judgement,
    NoFilter,
    PositiveRatioFilter,
    PromptFilter,
    Verdict,
    ZeroVarianceFilter,
)
from rence_lightning.prompts.pool import PromptPool
from rence_lightning.prompts.problems import FileProblems, HubProblems, Problem, ProblemSource
from rence_lightning.prompts.prompts import EncodedPrompts, Prompt, encode_prompts, fingerprint
from rence_lightning.prompts.skipping import GRESOSkipping, PromptSkipping
from rence_lightning.prompts.template import PAPER_TEMPLATE, PromptTemplate

__all__ = [
    "PAPER_TEMPLATE",
    "ArithmeticProblems",
    "Cleaned",
    "Cleaning",
    "EncodedPrompts",
    "FileProblems",
    "GRESOSkipping",
    "HubProblems",
    "Judgement",
    "NoFilter",
    "PositiveRatioFilter",
    "Problem",
    "ProblemSource",
    "Prompt",
    "PromptFilter",
    "PromptPool",
    "PromptSkipping",
    "PromptTemplate",
    "Verdict",
    "ZeroVarianceFilter",
    "encode_prompts",
    "fingerprint",
]

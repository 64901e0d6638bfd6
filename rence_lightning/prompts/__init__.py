"""Prompts: data sets of problems, their cleaning, and the template that turns problems into prompts."""

from rence_lightning.parts import Problem
from rence_lightning.prompts.arithmetic import ArithmeticProblems, TwoNumberProblems
from rence_lightning.prompts.cleaning import Cleaned, Cleaning
from rence_lightning.prompts.gym import GymProblems, GymTask
from rence_lightning.prompts.problems import FileProblems, HubProblems, ListProblems, ProblemSource
from rence_lightning.prompts.prompts import EncodedPrompts, Prompt, encode_prompts, fingerprint
from rence_lightning.prompts.template import PAPER_TEMPLATE, PromptTemplate

__all__ = [
    "PAPER_TEMPLATE",
    "ArithmeticProblems",
    "Cleaned",
    "Cleaning",
    "EncodedPrompts",
    "FileProblems",
    "GymProblems",
    "GymTask",
    "HubProblems",
    "ListProblems",
    "Problem",
    "ProblemSource",
    "Prompt",
    "PromptTemplate",
    "TwoNumberProblems",
    "encode_prompts",
    "fingerprint",
]

"""Scoring of whole cases: label maps against the truth, or a trained network on a data set."""

from unetkit.evaluation.cases import cases_of_run, evaluate_cases, evaluate_run
from unetkit.evaluation.compare import evaluate, evaluate_dataset, evaluate_folders
from unetkit.evaluation.result import Evaluation, require_scores, write_evaluation

__all__ = [
    "Evaluation",
    "cases_of_run",
    "evaluate",
    "evaluate_cases",
    "evaluate_dataset",
    "evaluate_folders",
    "evaluate_run",
    "require_scores",
    "write_evaluation",
]

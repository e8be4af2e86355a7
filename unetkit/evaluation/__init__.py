"""Scoring of whole cases: label maps against the truth, or a trained network on a data set."""

from unetkit.evaluation.cases import Sink, cases_of_run, evaluate_cases, evaluate_run
from unetkit.evaluation.compare import evaluate, evaluate_dataset, evaluate_folders
from unetkit.evaluation.result import Evaluation, read_evaluation, require_scores, write_evaluation

__all__ = [
    "Evaluation",
    "Sink",
    "cases_of_run",
    "evaluate",
    "evaluate_cases",
    "evaluate_dataset",
    "evaluate_folders",
    "evaluate_run",
    "read_evaluation",
    "require_scores",
    "write_evaluation",
]

"""Recipes: what one run does, as YAML and key=value words, checked against one schema."""

from unetkit.recipe.faults import explain_faults
from unetkit.recipe.find import find_recipe, list_recipes
from unetkit.recipe.merge import AUTO, Resolved, resolve
from unetkit.recipe.schema import (
    DataSection,
    EvaluateSection,
    InferSection,
    PostprocessRule,
    Recipe,
    SplitSection,
)
from unetkit.recipe.training import AugmentSection, LossSection, OptimizerSection, ScheduleSection, TrainSection

__all__ = [
    "AUTO",
    "AugmentSection",
    "DataSection",
    "EvaluateSection",
    "InferSection",
    "LossSection",
    "OptimizerSection",
    "PostprocessRule",
    "Recipe",
    "Resolved",
    "ScheduleSection",
    "SplitSection",
    "TrainSection",
    "explain_faults",
    "find_recipe",
    "list_recipes",
    "resolve",
]

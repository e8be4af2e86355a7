"""The runs of a study: a graph of configurations and folds, and what each has to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unetkit.errors import RecipeError
from unetkit.plan.configurations import CASCADE
from unetkit.plan.configurations import LOW as STAGE
from unetkit.recipe.schema import Recipe

OUT_OF_FOLD = f"{STAGE}/out_of_fold"
"""Folder in a study with the stage's label map of each case, by the run that did not train on it."""


@dataclass(frozen=True)
class Node:
    """One run of a study; `requires` names the runs that must be finished before it can start."""

    configuration: str
    fold: int
    requires: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder, relative to the study's."""
        return f"{self.configuration}/fold_{self.fold}"


def is_study(recipe: Recipe) -> bool:
    """Whether a recipe asks for several runs; "all" configurations may turn out to be a single one."""
    asked = recipe.plan.configuration
    several = asked == "all" or (isinstance(asked, list) and len(set(asked)) > 1)
    return several or recipe.data.split.fold == "all" or needs_stage(recipe, asked or ())


def needs_stage(recipe: Recipe, configurations: str | Sequence[str]) -> bool:
    """Whether the cascade is among the configurations and its label maps have to be made first."""
    named = [configurations] if isinstance(configurations, str) else configurations
    return CASCADE in named and recipe.data.previous is None


def build_nodes(
    recipe: Recipe, configurations: Sequence[str], folds: Sequence[int], every: Sequence[int]
) -> tuple[Node, ...]:
    """Return the runs in an order in which each comes after those that it requires.

    `folds` are those asked for, `every` all there are: a cascade on any fold trains on label maps of all cases, and
    only the run that did not train on a case may have made them.
    """
    staged = needs_stage(recipe, configurations)
    wanted = dict.fromkeys(configurations)
    if staged:
        # the stage before whatever stands behind it, also where nobody named it
        wanted = dict.fromkeys([*(name for name in wanted if name != CASCADE), STAGE, CASCADE])
    nodes: list[Node] = []
    for name in wanted:
        chosen = every if staged and name == STAGE else folds
        before = [node.name for node in nodes if staged and name == CASCADE and node.configuration == STAGE]
        nodes += [Node(name, fold, tuple(before)) for fold in chosen]
    return tuple(nodes)


def require_folds(recipe: Recipe) -> None:
    """Raise RecipeError if the stage before a cascade could not be trained so that it predicts unseen cases only."""
    if recipe.data.split.kind != "kfold":
        raise RecipeError(
            f"plan.configuration={CASCADE} trains on label maps that {STAGE} makes of unseen cases, fold by fold; add "
            "data.split.kind=kfold, or give such label maps with data.previous=FOLDER"
        )


def recipe_of(recipe: Recipe, node: Node, folds: int, previous: str | None) -> Recipe:
    """Return the recipe of one run: the study's, with its configuration and fold, and `previous` for the cascade."""
    split = recipe.data.split.model_copy(update={"fold": node.fold, "folds": folds})
    data = {"split": split} | ({"previous": previous} if node.requires else {})
    return recipe.model_copy(
        update={
            # the name is that of the study; a run trained anew by this recipe is another one
            "name": None,
            "data": recipe.data.model_copy(update=data),
            "plan": recipe.plan.model_copy(update={"configuration": node.configuration}),
            "train": recipe.train.model_copy(update={"jobs": "auto"}),
        }
    )

"""The words that a verb takes besides those of a recipe, checked like a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from unetkit.errors import RecipeError
from unetkit.recipe import DataSection, EvaluateSection, InferSection, explain_faults
from unetkit.recipe.merge import FREE, resumed
from unetkit.recipe.schema import Recipe, Section
from unetkit.recipe.words import nest, parse_words

Words = TypeVar("Words", bound=Section)


class ListWords(Section):
    """Filters of `unetkit list models`."""

    name: str = Field("*", description="shell pattern on the name")
    family: str | None = Field(None, description="cnn, transformer, ...")
    dims: Literal[2, 3] | None = Field(None, description="those that exist for images of so many axes")
    year: int | None = Field(None, description="of the paper")
    max_params: int | None = Field(None, ge=1, description="upper bound on the published parameter count")
    licence: str | None = Field(None, description="licence of the reference, for example MIT")


class PlanWords(Section):
    """How `unetkit plan` tells what it decided, besides the recipe that it decides from."""

    explain: bool = Field(False, description="the reason of each decision, with its numbers")


class PredictWords(Section):
    """What to predict with, from, and to."""

    run: str = Field(description="run folder, study or checkpoint")
    configurations: list[str] | None = Field(None, description="of a study: predict with these, not with its choice")
    folds: list[int] | None = Field(None, description="of a study: predict with these folds only")
    input: str | None = Field(None, description="file or folder of images")
    split: Literal["train", "val", "test"] | None = Field(None, description="predict this split of the run's own data")
    output: str = Field(description="folder, or file if the input is one")
    previous: str | None = Field(
        None, description="of a cascade: folder with the earlier stage's label maps; with split= those of its training"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    overwrite: bool = Field(False, description="predict again what is there already")
    probabilities: bool = Field(False, description="write probabilities beside the labels")
    infer: InferSection = InferSection()
    data: DataSection = DataSection()

    @model_validator(mode="after")
    def _agrees(self) -> PredictWords:
        if (self.input is None) == (self.split is None):
            raise ValueError(
                "give input=FILE_OR_FOLDER, or split=test for the cases of the run's own data; one of the two"
            )
        if self.input is not None:
            _refuse_unused(self, ("data",), "input=; it belongs to split=")
        return self


class EvaluateWords(Section):
    """What to score: label maps against label files or a data set, or a run on a split of its data."""

    predictions: str | None = Field(None, description="folder or file of label maps")
    references: str | None = Field(
        None, description="folder or file of true label maps; or else name a data set with data.root or data.dataset"
    )
    run: str | None = Field(None, description="run folder, study or checkpoint: predict and score a split of its data")
    configurations: list[str] | None = Field(None, description="of a study: predict with these, not with its choice")
    folds: list[int] | None = Field(None, description="of a study: predict with these folds only")
    split: Literal["train", "val", "test"] | None = Field(
        None, description="side to score; without it test of a run, and all labelled cases of a data set"
    )
    output: str | None = Field(None, description="folder for metrics.json, metrics.csv and the report")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    data: DataSection = DataSection()
    infer: InferSection = InferSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _agrees(self) -> EvaluateWords:
        if (self.run is None) == (self.predictions is None):
            raise ValueError("give predictions=FOLDER references=FOLDER, or run=RUN; one of the two")
        if self.run is not None:
            _refuse_unused(self, ("references",), "run=, which brings its own labels")
            return self
        _refuse_unused(self, ("device", "infer", "configurations", "folds"), "predictions=, which need no network")
        named = self.data.root is not None or self.data.dataset is not None
        if (self.references is None) != named:
            raise ValueError(
                "predictions need references=FOLDER_OR_FILE with the true label maps, or a data set that holds them "
                "(data.root=FOLDER or data.dataset=NAME); one of the two"
            )
        if self.references is not None:
            _refuse_unused(self, ("split",), "references=, which are scored as they are; it belongs to a data set")
        return self


def _refuse_unused(words: Section, names: Iterable[str], beside: str) -> None:
    """A word that changes nothing would let its user believe that it did."""
    if unused := [name for name in names if name in words.model_fields_set]:
        raise ValueError(f"{', '.join(unused)} is not used with {beside}; drop it")


def read_words(words: Iterable[str], schema: type[Words]) -> Words:
    """Check `key=value` words against a schema. Raises RecipeError that lists all faults at once."""
    values, faults = parse_words(words)
    try:
        # As JSON, because only there does strict mode take a list for a tuple.
        checked = schema.model_validate_json(json.dumps(nest(values), default=str))
    except ValidationError as error:
        faults += explain_faults(error, schema)
    if faults:
        raise RecipeError("; ".join(faults), faults)
    return checked


def resume_words(words: Iterable[str]) -> dict[str, Any]:
    """Return what may be changed of a run that is gone on with. Raises RecipeError for anything else."""
    values, faults = parse_words(words)
    if faults:
        raise RecipeError("; ".join(faults), faults)
    # against the defaults, since the run is not read yet: what is refused here is refused at once
    resumed(Recipe(), values, (*FREE, "train.jobs"))
    return values


def described(schema: type[Section]) -> str:
    """Return a line for each word that a verb takes."""
    return "\n".join(
        f"  {name + ('.KEY' if field.description is None else ''):<15}{field.description or 'as in a recipe'}"
        for name, field in schema.model_fields.items()
    )


def of_study(words: PredictWords | EvaluateWords) -> dict[str, Any]:
    """Return which members of a study shall predict, as far as the user said."""
    named = {"configurations": words.configurations, "folds": words.folds}
    return {name: value for name, value in named.items() if value is not None}


def given(section: Section) -> dict[str, Any]:
    """Return the keys of a section that the user wrote, with plain values."""
    # Only those: a default must not override what the run was trained with.
    return section.model_dump(exclude_unset=True)

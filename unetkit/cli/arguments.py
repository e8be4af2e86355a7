"""The words that a verb takes besides those of a recipe, checked like a recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from unetkit.errors import RecipeError
from unetkit.recipe import DataSection, EvaluateSection, InferSection, explain_faults
from unetkit.recipe.merge import FREE, resumed
from unetkit.recipe.schema import Recipe, Section
from unetkit.recipe.words import nest, parse_words

Words = TypeVar("Words", bound=Section)

_BOUND = re.compile(r"(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)([kMG]?)")
_FACTOR = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def _span(value: Any) -> tuple[float | None, float | None]:
    """Read `LOW..HIGH`, either of which may be left out: both are included."""
    low, dots, high = str(value).partition("..")
    found = [_BOUND.fullmatch(bound) for bound in (low, high)]
    if (
        not dots
        or not (low or high)
        or any(bound and not match for bound, match in zip((low, high), found, strict=True))
    ):
        raise ValueError(f"{value} is no range; write LOW..HIGH, ..HIGH or LOW.. with numbers such as 50, 1.5 or 30M")
    first, last = (float(m[1]) * _FACTOR[m[2]] if m else None for m in found)
    return first, last


def _years(value: Any) -> tuple[float | None, float | None]:
    """Read one year or a range of them."""
    return _span(f"{value}..{value}" if str(value).isdigit() else value)


Range = Annotated[tuple[float | None, float | None], BeforeValidator(_span)]
Years = Annotated[tuple[float | None, float | None], BeforeValidator(_years)]


class ListWords(Section):
    """Filters of `unetkit list models`."""

    name: str = Field("*", description="shell pattern on the name")
    family: str | None = Field(None, description="cnn, transformer, ...")
    dims: Literal[2, 3] | None = Field(None, description="those that exist for images of so many axes")
    year: Years | None = Field(None, description="of the paper: 2020, 2018..2021, 2020.. or ..2018")
    params: Range | None = Field(None, description="published parameter count: ..30M, 1M.. or 1M..30M")
    gflops: Range | None = Field(None, description="billions of operations at the size of that count: ..50")
    licence: str | None = Field(None, description="of the reference, a shell pattern too: MIT, 'GPL*'")


class ShowModelWords(Section):
    """A model whose network `unetkit show` draws."""

    model: str = Field(description="name in the registry")
    draw: str = Field(description="file to draw the network to, as SVG")
    dims: Literal[2, 3] | None = Field(None, description="draw the network for images of so many axes")

    @model_validator(mode="after")
    def _agrees(self) -> ShowModelWords:
        if not self.draw.lower().endswith(".svg"):
            raise ValueError(f"draw={self.draw}: the network is drawn as SVG; name the file {self.draw}.svg")
        return self


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
    """Return a line for each word that a verb takes; keys of a section that recipes lack have lines of their own."""
    lines = []
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if field.description is not None:
            lines.append(f"  {name:<19}{field.description}")
        elif isinstance(inner, type) and issubclass(inner, Section) and name not in Recipe.model_fields:
            lines += [f"  {f'{name}.{key}':<19}{part.description}" for key, part in inner.model_fields.items()]
        else:
            lines.append(f"  {name + '.KEY':<19}as in a recipe")
    return "\n".join(lines)


def of_study(words: PredictWords | EvaluateWords) -> dict[str, Any]:
    """Return which members of a study shall predict, as far as the user said."""
    named = {"configurations": words.configurations, "folds": words.folds}
    return {name: value for name, value in named.items() if value is not None}


def given(section: Section) -> dict[str, Any]:
    """Return the keys of a section that the user wrote, with plain values."""
    # Only those: a default must not override what the run was trained with.
    return section.model_dump(exclude_unset=True)

"""Benchmarks: which models on which data sets with which seeds, and what each job of one trains by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from unetkit.errors import RecipeError, counted, nearest
from unetkit.recipe.cluster import EngineSection, EngineWord, engine_over, engine_words
from unetkit.recipe.faults import explain_faults
from unetkit.recipe.find import find_bench, list_benches
from unetkit.recipe.merge import merged, recipe_from_json
from unetkit.recipe.schema import DataSection, Recipe
from unetkit.recipe.section import Positive, PositiveFloat, Section
from unetkit.recipe.words import Tree, nest, parse_words, read_yaml

_SETTLED = ("seed", "output", "name", "task", "description")
"""Keys of a recipe that the benchmark decides for each job."""
_BUDGETED = ("epochs", "steps_per_epoch", "max_minutes", "validate_every", "validations", "patience", "select")
_LABEL = re.compile(r"[\w.+-]+")
# At most, so that validation and learning rate move on at the same steps for every model.
_EPOCHS = 50
# Of a training by the clock: short, so that validations are due about when they should be.
_STEPS = 20
_PROTOCOLS: dict[str, Tree] = {"held_out": {}, "ubench": {"evaluate": {"empty": "zero"}}}
"""Keys that a protocol settles, below those of the recipe."""


class Budget(Section):
    """What every job may spend on training: so many steps, so many minutes, or so many passes over its cases."""

    steps: Positive | None = Field(None, description="steps of the optimiser")
    epochs: Positive | None = Field(None, description="passes over the training cases of a data set, instead of steps")
    minutes: PositiveFloat | None = Field(
        None, description="wall-clock time; the learning rate follows it, or steps and epochs where these are given too"
    )
    validations: Positive = Field(5, description="how often the validation part is scored, to choose the checkpoint")

    @model_validator(mode="after")
    def _agrees(self) -> Budget:
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise ValueError(
                "give steps=NUMBER, epochs=NUMBER or minutes=NUMBER; with minutes beside another, the first ends a job"
            )
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps={self.steps} and epochs={self.epochs} are two lengths; keep one, as budget.steps=null drops "
                "the other"
            )
        if self.epochs is not None and self.validations > self.epochs:
            raise ValueError(
                f"validations={self.validations} in {counted(self.epochs, 'epoch')}: one an epoch at most; give "
                f"validations={self.epochs} or fewer"
            )
        if self.steps is not None and not self.divided():
            below = self.steps // self.validations * self.validations
            raise ValueError(
                f"steps={self.steps} cannot be divided into {self.validations} or more epochs of equal length; give "
                f"{below} or {below + self.validations}"
            )
        return self

    def divided(self) -> int:
        """Return into how many epochs of equal length the steps are divided; 0 where they cannot be."""
        assert self.steps is not None
        least, most = min(self.validations, self.steps), min(max(self.validations, _EPOCHS), self.steps)
        return next((n for n in range(most, least - 1, -1) if self.steps % n == 0), 0)


class Transfer(Section):
    """Another data set that the networks of one are tested on as they are (zero-shot)."""

    source: str = Field(description="the data set of the benchmark whose networks are tested")
    data: Tree = Field(description="keys of a recipe's section data: where the other one lies")


class BenchRecipe(Section):
    """Everything a benchmark depends on besides the data."""

    description: str = Field("", description="one line about it")
    name: str | None = Field(None, description="name of the benchmark's folder; without it that of the recipe")
    output: str = Field("benches", description="folder that receives the benchmark's folder")
    data_root: str | None = Field(None, description="folder in which relative data.root of the data sets lie")
    models: Annotated[list[str | Tree], Field(min_length=1)] = Field(
        description="names, or sections `model` of a recipe: {name: unetpp, encoder: resnet18}; `label` names a variant"
    )
    datasets: Annotated[dict[str, Tree], Field(min_length=1)] = Field(
        description="name -> keys of a recipe that hold for this data set, data.root or data.dataset among them; with "
        "`models`, a list of labels, it is for these alone"
    )
    seeds: Annotated[list[int], Field(min_length=1)] = Field([0, 1, 2], description="a training of each model for each")
    budget: Budget
    recipe: Tree = Field({}, description="keys of a recipe that hold for all jobs")
    per_model: dict[str, Tree] = Field({}, description="label of a model -> keys of a recipe that hold for it alone")
    zero_shot: dict[str, Transfer] = Field({}, description="name -> another data set and whose networks it tests")
    protocol: Literal["held_out", "ubench"] = Field(
        "held_out",
        description="held_out: choose the checkpoint on validation, score the test part once; ubench: as U-Bench, "
        "choose and score on the same part, which flatters every model, and count a class absent from both masks as 0 "
        "(recipe=bench_ubench has its training too)",
    )
    anchors: str | dict[str, str] = Field(
        "cohort",
        description="of the U-Score: cohort, or ubench:DATASET; by data set where there are several, the others by the "
        "cohort: {polyps: ubench:kvasir}",
    )
    jobs: Positive = Field(1, description="jobs at once on this machine; on a cluster engine.at_once says it")
    engine: EngineWord = Field(
        EngineSection(), description="what starts the jobs: local, ray or slurm, or a section with its keys"
    )

    def anchors_of(self, tested: str) -> str:
        """Return the anchors of the U-Scores on a data set; U-Bench published none of those tested without training."""
        if isinstance(self.anchors, str):
            return self.anchors if tested in self.datasets else "cohort"
        return self.anchors.get(tested, "cohort")

    @model_validator(mode="after")
    def _agrees(self) -> BenchRecipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} hold one twice; a seed is a training of its own")
        if wrong := [name for name in (*self.datasets, *self.zero_shot) if not _is_folder_name(name)]:
            raise ValueError(f"data set '{wrong[0]}' is the name of a folder; use letters, digits, . _ + -")
        if both := [name for name in self.zero_shot if name in self.datasets]:
            raise ValueError(
                f"zero_shot.{both[0]} has the name of a data set that is trained on, and their scores would mix; "
                f"call it {self.zero_shot[both[0]].source}_to_{both[0]}"
            )
        if isinstance(self.anchors, str) and self.anchors != "cohort" and len(self.datasets) > 1:
            raise ValueError(
                f"anchors={self.anchors} are of one data set, and IoU has others on each; give anchors="
                f"{{{next(iter(self.datasets))}: {self.anchors}}}"
            )
        if not isinstance(self.anchors, str) and (wrong := [n for n in self.anchors if n not in self.datasets]):
            raise ValueError(
                f"anchors.{wrong[0]} is no data set that this benchmark trains on{nearest(wrong[0], self.datasets)}; "
                f"there are {', '.join(self.datasets)}"
            )
        for name, transfer in self.zero_shot.items():
            if transfer.source not in self.datasets:
                raise ValueError(
                    f"zero_shot.{name}.source={transfer.source} is no data set of this benchmark"
                    f"{nearest(transfer.source, self.datasets)}; there are {', '.join(self.datasets)}"
                )
        return self


@dataclass(frozen=True)
class BenchJob:
    """One training and its test: `recipe` is what `unetkit train` would take, `transfers` the other data to test."""

    model: str
    dataset: str
    seed: int
    recipe: Recipe
    transfers: Mapping[str, Tree]

    @property
    def name(self) -> str:
        """Return where the job lies below the benchmark's folder."""
        return f"{self.dataset}/{self.model}/seed_{self.seed}"


def read_bench(words: Iterable[str]) -> tuple[BenchRecipe, str]:
    """Read a benchmark's recipe (`recipe=NAME` or a path) with `key=value` words over it, and return it with its name.

    Raises RecipeError that lists all faults at once, those of every job's recipe among them.
    """
    values, faults = parse_words(engine_words(words))
    name = values.pop("recipe", None)
    if name is None:
        raise RecipeError("give recipe=NAME of a benchmark, or recipe=FILE.yaml; `unetkit list benches` names them")
    path = find_bench(str(name))
    where = f"recipe {path.stem}"
    tree = read_yaml(path.read_text(encoding="utf-8"), where)
    if not isinstance(tree, dict):
        raise RecipeError(f"{where}: expected keys such as models, datasets, seeds and budget")
    above = nest(values)
    if "engine" in above:
        above["engine"] = engine_over(tree.pop("engine", None), above["engine"])
    bench = checked_bench(merged(tree, above), faults)
    for job in jobs_of(bench):  # their faults now, not after hours
        _require_unseen(job)
    return bench, bench.name or path.stem


def other_engine(bench: BenchRecipe, words: Tree | None) -> EngineSection:
    """Return a benchmark's engine with other keys over it. Raises RecipeError that lists their faults."""
    tree = engine_over(bench.engine.model_dump(mode="json"), words or {})
    return checked_bench({**bench.model_dump(mode="json"), "engine": tree}).engine


def list_jobs() -> dict[str, dict[str, Any]]:
    """Return what the benchmarks are that come with unetkit: models, data sets, jobs, and a line about each."""
    found = {}
    for name in list_benches():
        bench, _ = read_bench([f"recipe={name}"])
        found[name] = {
            "models": len(bench.models),
            "datasets": len(bench.datasets),
            "jobs": len(list(jobs_of(bench))),
            "description": bench.description,
        }
    return found


def checked_bench(tree: Tree, faults: Iterable[str] = ()) -> BenchRecipe:
    """Check the keys of a benchmark. Raises RecipeError that lists all faults at once."""
    found = list(faults)
    try:
        bench = BenchRecipe.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        found += explain_faults(error, BenchRecipe)
    if found:
        raise RecipeError("; ".join(found), found)
    return bench


def jobs_of(bench: BenchRecipe) -> Iterator[BenchJob]:
    """Yield the jobs, all models with a seed before the next seed, so that whatever is done is a fair comparison.

    Raises RecipeError for a recipe that cannot be, naming model and data set.
    """
    models = labelled(bench)
    if unknown := [label for label in bench.per_model if label not in models]:
        raise RecipeError(
            f"per_model.{unknown[0]}: no such model in this benchmark{nearest(unknown[0], models)}; there are "
            f"{', '.join(models)}"
        )
    meant = {dataset: _meant(dataset, own, models) for dataset, own in bench.datasets.items()}
    for seed in bench.seeds:
        for dataset, keys in bench.datasets.items():
            own = {key: value for key, value in keys.items() if key != "models"}
            transfers = {n: _other(bench, n, t.data) for n, t in bench.zero_shot.items() if t.source == dataset}
            for label in meant[dataset]:
                model = models[label]
                parts = [
                    _PROTOCOLS[bench.protocol],
                    bench.recipe,
                    own,
                    bench.per_model.get(label, {}),
                    {"model": model},
                    _budget(bench),
                ]
                tree: Tree = {}
                for part in parts:
                    tree = merged(tree, part)
                yield BenchJob(label, dataset, seed, _recipe(bench, tree, seed, f"{label} on {dataset}"), transfers)


def _meant(dataset: str, own: Tree, models: Mapping[str, Tree]) -> list[str]:
    """Return the labels of the models that a data set is for."""
    chosen = own.get("models", list(models))
    if not isinstance(chosen, list) or not chosen:
        raise RecipeError(f"datasets.{dataset}.models={chosen}: give a list of labels, or drop it for all models")
    for label in chosen:
        if not isinstance(label, str) or label not in models:
            raise RecipeError(
                f"datasets.{dataset}.models: '{label}' is no model of this benchmark{nearest(str(label), models)}; "
                f"there are {', '.join(models)}"
            )
    if len(set(chosen)) < len(chosen):
        raise RecipeError(f"datasets.{dataset}.models={chosen}: one stands twice; keep one")
    return chosen


def labelled(bench: BenchRecipe) -> dict[str, Tree]:
    """Return the models by label: their own, or the name with the options that differ."""
    found: dict[str, Tree] = {}
    for entry in bench.models:
        model = {"name": entry} if isinstance(entry, str) else dict(entry)
        if "name" not in model:
            raise RecipeError(
                f"models: {entry} has no name; write {{name: unet, ...}}, as `unetkit list models` has it"
            )
        label = str(model.pop("label", None) or _named(model))
        if not _is_folder_name(label):
            raise RecipeError(f"models: label '{label}' is the name of a folder; use letters, digits, . _ + -")
        if label in found:
            raise RecipeError(f"models: '{label}' stands twice; give one of them a label of its own")
        found[label] = model
    return found


def _named(model: Tree) -> str:
    options = [f"{key}-{value}" for key, value in model.items() if key != "name"]
    return "+".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in [str(model["name"]), *options])


def _is_folder_name(name: str) -> bool:
    return _LABEL.fullmatch(name) is not None and name.strip(".") != ""


def _budget(bench: BenchRecipe) -> Tree:
    """Return the keys by which every job trains equally long."""
    budget = bench.budget
    if budget.steps is not None:
        epochs = budget.divided()
        train: Tree = {"epochs": epochs, "steps_per_epoch": budget.steps // epochs}
        train["validate_every"] = max(1, epochs // budget.validations)
    elif budget.epochs is not None:
        train = {"epochs": budget.epochs, "validations": budget.validations}
    else:
        train = {"epochs": None, "steps_per_epoch": _STEPS, "validations": budget.validations}
    return {"train": train | {"max_minutes": budget.minutes}}


def _recipe(bench: BenchRecipe, tree: Tree, seed: int, where: str) -> Recipe:
    given = (bench.recipe, *bench.datasets.values(), *bench.per_model.values())
    # looked for in the parts, since the budget's own keys would hide what they go over
    faults = [
        f"{key}={part[key]}: expected a section of keys" for key, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for part in given if key in part and not isinstance(part[key], dict)
    ]  # fmt: skip
    if faults:
        raise RecipeError(f"{where}: {'; '.join(faults)}", faults)
    faults = [f"{key} is decided by the benchmark" for key in _SETTLED if key in tree]
    faults += ["model is decided by `models`"] if any("model" in part for part in given) else []
    faults += [
        f"train.{key} is decided by budget, alike for all" for key in _BUDGETED
        if any(key in part.get("train", {}) for part in given)
    ]  # fmt: skip
    if faults:
        raise RecipeError(f"{where}: {'; '.join(faults)}; drop it", faults)
    try:
        return recipe_from_json({**_placed(bench, tree), "seed": seed})
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}", error.faults) from error


def _other(bench: BenchRecipe, name: str, data: Tree) -> Tree:
    """Return where other data lie. Raises RecipeError for keys that cannot be."""
    where = f"zero_shot.{name}.data"
    if not {"root", "dataset"} & set(data):
        raise RecipeError(f"{where}: give root=FOLDER or dataset=NAME, where the other data lie")
    if "split" in data:
        raise RecipeError(f"{where}.split: other data are tested as a whole; drop it")
    try:
        DataSection.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        faults = [f"{where}.{fault}" for fault in explain_faults(error, DataSection)]
        raise RecipeError("; ".join(faults), faults) from error
    found: Tree = _placed(bench, {"data": data})["data"]
    return found


def _require_unseen(job: BenchJob) -> None:
    """Raise RecipeError where networks would be tested, as on other data, on those that they are trained on."""
    for name, data in job.transfers.items():
        if (place := _same_place(job.recipe.data, data)) is not None:
            raise RecipeError(
                f"zero_shot.{name}.data.{place} is where {job.dataset} lies, whose networks would be tested on cases "
                f"that they were trained on; give other data, or drop zero_shot.{name}"
            )


def _same_place(section: DataSection, data: Tree) -> str | None:
    """Return the key by which other data are those of a recipe's section `data`; None if they are not."""
    if data.get("layout", section.layout) != section.layout:
        return None
    if data.get("root") is not None:
        same = section.root is not None and _resolved(str(data["root"])) == _resolved(section.root)
        return f"root={data['root']}" if same else None
    # generated: more or fewer cases of the same kind are the same ones, as far as they go
    kind = data.get("dataset")
    same = section.root is None and kind == section.dataset and data.get("generator", {}) == section.generator
    return f"dataset={kind}" if same else None


def _resolved(root: str) -> Path:
    return Path(root).expanduser().resolve()


def _placed(bench: BenchRecipe, tree: Tree) -> Tree:
    """Return keys whose data.root, if it is relative, lies below `data_root`."""
    root = tree.get("data", {}).get("root")
    if not isinstance(root, str) or bench.data_root is None or Path(root).is_absolute():
        return tree
    return merged(tree, {"data": {"root": str(Path(bench.data_root).expanduser() / root)}})

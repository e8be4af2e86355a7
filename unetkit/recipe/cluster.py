"""Where the jobs of a benchmark run: on this machine, on a Ray cluster, or through Slurm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from unetkit.recipe.merge import merged
from unetkit.recipe.section import NonNegative, Positive, PositiveFloat, Section
from unetkit.recipe.words import Tree

_SHARED = ("at_once", "cpus", "gpus", "memory_gb", "retries")
_KEYS = {
    "local": (),
    "ray": (*_SHARED, "address"),
    "slurm": (*_SHARED, "minutes", "partition", "account", "options"),
}
"""The keys that each engine uses besides its name."""


class EngineSection(Section):
    """What starts the jobs of a benchmark; nothing here changes what they come to."""

    name: Literal["local", "ray", "slurm"] = Field(
        "local", description="local: processes of this machine; ray, slurm: a cluster, all of whose machines see the "
        "benchmark's folder and the data under the same paths"
    )  # fmt: skip
    at_once: Positive | None = Field(None, description="cluster: jobs at once; without it as many as find room")
    cpus: Positive = Field(1, description="cluster: cores of a job")
    gpus: NonNegative = Field(0.0, description="cluster: GPUs of a job; on Ray also a share such as 0.5")
    memory_gb: PositiveFloat | None = Field(None, description="cluster: main memory of a job")
    retries: Annotated[int, Field(ge=0)] = Field(
        3, description="cluster: how often a job goes on elsewhere after its machine, or its time limit, has ended it"
    )
    address: str | None = Field(
        None, description="ray: HOST:PORT of the cluster; without it the one that this machine belongs to, or a new one"
    )
    minutes: Positive | None = Field(
        None, description="slurm: time limit of a job; one that reaches it is put back and goes on from its checkpoint"
    )
    partition: str | None = Field(None, description="slurm: partition")
    account: str | None = Field(None, description="slurm: account")
    options: dict[str, str | int | bool] = Field({}, description="slurm: other options of sbatch, {constraint: a100}")

    @model_validator(mode="after")
    def _agrees(self) -> EngineSection:
        # by value, since a stored section has all its keys
        given = {key: getattr(self, key) for key in type(self).model_fields if key != "name"}
        changed = [key for key, value in given.items() if value != type(self).model_fields[key].default]
        if unused := [key for key in changed if key not in _KEYS[self.name]]:
            allowed = ", ".join(_KEYS[self.name]) or "no further keys"
            raise ValueError(f"{', '.join(unused)} is not used with {self.name}, which takes {allowed}; drop it")
        if self.name == "slurm" and self.minutes is None:
            raise ValueError("slurm needs minutes=NUMBER, the time limit of a job")
        if self.name == "slurm" and self.gpus != int(self.gpus):
            raise ValueError(f"gpus={self.gpus}: Slurm gives out whole GPUs")
        return self


def _section(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


EngineWord = Annotated[EngineSection, BeforeValidator(_section)]
"""A section, or the engine's name alone."""


def engine_words(words: Iterable[str]) -> list[str]:
    """Return words with `engine=NAME` as `engine.name=NAME`, so that it may stand beside `engine.gpus=1`.

    `bench.engine=NAME` is understood too, as is any word with the verb before its key.
    """
    plain = [word.removeprefix("bench.") for word in words]
    return [
        f"engine.name={word.removeprefix('engine=')}"
        if word.startswith("engine=") and not word.startswith("engine={")
        else word
        for word in plain
    ]


def engine_over(below: Tree | str | None, above: Mapping[str, Any]) -> Tree:
    """Return the keys of an engine with others over them; another engine leaves those of the first behind."""
    first: Tree = {"name": below} if isinstance(below, str) else dict(below or {})
    same = above.get("name", first.get("name", "local")) == first.get("name", "local")
    return merged(first if same else {}, dict(above))

"""What a network may cost where it is to be used."""

from __future__ import annotations

from pydantic import Field

from unetkit.recipe.section import PositiveFloat, Section


class Limits(Section):
    """What is not given is not limited."""

    params_m: PositiveFloat | None = Field(None, description="trainable parameters, in millions")
    gflops: PositiveFloat | None = Field(None, description="operations of a forward pass, in billions")
    memory_gb: PositiveFloat | None = Field(None, description="memory of a training step of one image, fp32, in GB")
    ms: PositiveFloat | None = Field(None, description="time of one image on this machine, in milliseconds")
    pretrained: bool = Field(
        False,
        description="advise networks that start from weights trained on other images too, in a table of their own",
    )

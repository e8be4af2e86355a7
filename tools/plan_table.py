#!/usr/bin/env python3
"""Print the sizes that the default planner gives to every model, for several memory targets, as a Markdown table.

python tools/plan_table.py                      all models at 8, 24 and 80 GB
python tools/plan_table.py unet swin_unetr      these alone

Steps are estimated in fp16 for a GPU, which need not be there. No data are read: two data sets are described below.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from unetkit.engine.estimate import StepEstimate
from unetkit.errors import UnetkitError
from unetkit.plan.fingerprint import Fingerprint, Intensity
from unetkit.plan.rules import decide
from unetkit.recipe.schema import Recipe
from unetkit.registry import list_models, model_info
from unetkit.types import Labels

TARGETS_GB = (8, 24, 80)


def alike(channel: str, classes: int, cases: int, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Fingerprint:
    """Return the fingerprint of a data set whose volumes are all alike, axes right, anterior, superior."""
    names = tuple(f"class {i}" for i in range(1, classes + 1))
    return Fingerprint(
        dims=3,
        channels=(channel,),
        labels=Labels(names, tuple((i,) for i in range(1, classes + 1))),
        cases=tuple(map(str, range(cases))),
        shapes=(shape,) * cases,
        cropped=(shape,) * cases,
        spacings=(spacing,) * cases,
        placed=True,
        intensities=(Intensity(-100, 240, 90, 40, 95),),
        dtypes={"int16": cases},
        voxels=dict.fromkeys(names, 1000),
    )


DATA = {
    "abdominal CT": alike("CT", 13, 30, (512, 512, 130), (0.76, 0.76, 3.0)),
    "hippocampus": alike("MR", 2, 260, (36, 50, 35), (1.0, 1.0, 1.0)),
}


def sizes(data: str, model: str, dims: int) -> Iterator[str]:
    """Yield for each target what was planned, or why nothing could be."""
    tree = {
        "model": {"name": model},
        "plan": {"configuration": "2d" if dims == 2 else "3d_fullres"},
        # said outright, since auto would ask the device
        "train": {"precision": "fp16"},
    }
    # one for all targets: a step that was counted for one of them is known for the others
    estimate = StepEstimate(Recipe.model_validate(tree), torch.device("cuda"))
    for target in TARGETS_GB:
        recipe = Recipe.model_validate({**tree, "plan": {**tree["plan"], "memory_gb": float(target)}})
        try:
            plan = decide(DATA[data], recipe, model_info(model), estimate)
        except UnetkitError as error:
            yield str(error)
        else:
            patch = "x".join(map(str, plan.patch_size))
            yield f"{patch}, {plan.batch_size}, {plan.expected['memory_gb']:.1f} GB"


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list_models())
    columns = ["data", "model", "dims", *(f"{gb} GB" for gb in TARGETS_GB)]
    print("| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns), sep="\n")
    for data in DATA:
        for model in parser.parse_args().models:
            for dims in model_info(model).dims:
                print(
                    f"| {data} | {model} | {dims}D |", *(f"{cell} |" for cell in sizes(data, model, dims)), flush=True
                )


if __name__ == "__main__":
    main()

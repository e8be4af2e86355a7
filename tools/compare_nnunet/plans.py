#!/usr/bin/env python3
"""Print, for every data set below a folder, what unetkit's planner and nnU-Net's rules decide, as a Markdown table.

    python tools/compare_nnunet/plans.py FOLDER [--model plain_unet] [--memory-gb 8]

Nothing of nnU-Net has to be installed: its rules are those of planner=nnunet. Steps are estimated in fp16 for a GPU,
which need not be there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from unetkit.data.datasets import Dataset, open_dataset
from unetkit.data.splits import make_split
from unetkit.engine.estimate import StepEstimate
from unetkit.errors import UnetkitError
from unetkit.plan import Fingerprint, Plan, configurations_for, decide, measure
from unetkit.recipe import resolve
from unetkit.registry import model_info


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--model", default="plain_unet")
    p.add_argument("--memory-gb", type=float, default=8.0)
    args = p.parse_args()
    print("| data | configuration | planner | spacing | patch | batch | pools | normalization |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in sorted(path for path in args.folder.iterdir() if path.is_dir()):
        try:
            for line in rows(folder, args.model, args.memory_gb):
                print(line, flush=True)
        except UnetkitError as error:
            print(f"| {folder.name} | {error} | | | | | | |", flush=True)


def rows(folder: Path, model: str, memory_gb: float) -> Iterator[str]:
    """Yield a line for each configuration and planner."""
    # the precision is said outright, since auto would ask the device
    base = [f"data.root={folder}", f"model.name={model}", f"plan.memory_gb={memory_gb}", "train.precision=fp16"]
    recipe = resolve(base).recipe
    dataset = open_dataset(recipe.data)
    fingerprint = measured(dataset, recipe.data.split)
    info = model_info(model)
    for name in configurations_for(fingerprint, recipe, info):
        for planner in ("nnunet", "unetkit"):
            asked = resolve([*base, f"plan.planner={planner}", f"plan.configuration={name}"]).recipe
            measure_step = StepEstimate(asked, torch.device("cuda")) if planner == "unetkit" else None
            yield line_of(folder.name, name, planner, decide(fingerprint, asked, info, measure_step))


def measured(dataset: Dataset, section) -> Fingerprint:
    """Measure the cases that train or validate, as nnU-Net does."""
    split = make_split(dataset, section)
    return measure(dataset, (*split.train, *split.val))


def line_of(data: str, configuration: str, planner: str, plan: Plan) -> str:
    """Return one plan as a line of the table."""
    spacing = "native" if plan.spacing is None else " x ".join(f"{s:.3g}" for s in plan.spacing)
    pools = [sum(stride[axis] > 1 for stride in plan.strides) for axis in range(plan.dims)]
    cells = [spacing, " x ".join(map(str, plan.patch_size)), str(plan.batch_size), ", ".join(map(str, pools))]
    schemes = ", ".join(dict.fromkeys(rule.scheme for rule in plan.normalization))
    return f"| {data} | {configuration} | {planner} | {' | '.join(cells)} | {schemes} |"


if __name__ == "__main__":
    main()

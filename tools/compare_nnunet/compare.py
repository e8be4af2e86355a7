#!/usr/bin/env python3
"""The same network on the same fold for the same time: nnU-Net v2 and unetkit, side by side.

    python tools/compare_nnunet/compare.py --data FOLDER --work SCRATCH [--minutes 10] [--threads 1] [--device cpu]

Both must be installed in the environment. nnU-Net plans and preprocesses; unetkit takes nnU-Net's plan file. Both train
on the same cases for the same wall-clock time, predict the same test cases from files to files without mirroring, and
are scored by unetkit's metrics. Printed are seconds and their ratios; what was measured is kept in SCRATCH/result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAME = "Dataset900_Compared"


def main() -> None:
    """Run all stages and print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="data set folder, in any layout that unetkit reads")
    p.add_argument("--work", type=Path, required=True, help="scratch folder")
    p.add_argument("--configuration", default="3d_fullres")
    p.add_argument("--minutes", type=float, default=10.0, help="training time of each")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    folders = {name: args.work / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    split = export(args.data, folders["nnUNet_raw"] / NAME)
    environment = {**os.environ, **{k: str(v) for k, v in folders.items()}}
    environment["nnUNet_n_proc_DA"] = str(args.threads)
    environment["OMP_NUM_THREADS"] = str(args.threads)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    common = [f"--threads={args.threads}", f"--device={args.device}", f"--configuration={args.configuration}"]

    def stage(side: str, name: str, *more: str) -> dict[str, Any]:
        # one core has no room for a process beside the training: there nnU-Net augments within it, as unetkit does
        alone = {"nnUNet_n_proc_DA": "0"} if name == "train" and args.threads == 1 else {}
        return run([sys.executable, str(HERE / f"{side}_side.py"), name, *common, *more], environment | alone)

    result: dict[str, Any] = {"nnunet": {"preprocess": stage("nnunet", "preprocess")}}
    preprocessed = folders["nnUNet_preprocessed"] / NAME
    (preprocessed / "splits_final.json").write_text(json.dumps([{k: split[k] for k in ("train", "val")}]))
    shared = [f"--data={args.data}", f"--plan={preprocessed / 'nnUNetPlans.json'}", f"--work={args.work / 'unetkit'}"]
    result["unetkit"] = {"preprocess": stage("unetkit", "preprocess", *shared)}
    # one after the other: on a shared machine neither takes the other's cores
    for side, own in (("nnunet", []), ("unetkit", shared)):
        result[side]["train"] = stage(side, "train", f"--minutes={args.minutes}", *own)
        result[side]["predict"] = stage(side, "predict", f"--output={args.work / f'{side}_predicted'}", *own)
        result[side]["score"] = score(args.work / f"{side}_predicted", args.data)
    (args.work / "result.json").write_text(json.dumps(result, indent=1))
    print(table(result))


def export(data: Path, raw: Path) -> dict[str, list[str]]:
    """Write the data set in nnU-Net's layout, and return the case ids of train, val and test."""
    from unetkit.data.datasets import open_dataset
    from unetkit.data.splits import make_split
    from unetkit.recipe import DataSection

    section = DataSection(root=str(data))
    dataset = open_dataset(section)
    split = make_split(dataset, section.split)
    if raw.exists():
        shutil.rmtree(raw)
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True)
    for name in (*split.train, *split.val, *split.test):
        case = dataset.case(name)
        images = raw / ("imagesTs" if name in split.test else "imagesTr")
        for number, image in enumerate(case.images):
            shutil.copy(image, images / f"{name}_{number:04d}.nii.gz")
        if name not in split.test:
            shutil.copy(str(case.label), raw / "labelsTr" / f"{name}.nii.gz")
    described = {
        "channel_names": dict(enumerate(dataset.channels)),
        "labels": {"background": 0}
        | {c: v[0] for c, v in zip(dataset.labels.classes, dataset.labels.values, strict=True)},
        "numTraining": len(split.train) + len(split.val),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    return {side: list(getattr(split, side)) for side in ("train", "val", "test")}


def run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run one stage and return what its last line says."""
    print(" ".join(command[1:3]), file=sys.stderr)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def score(predictions: Path, data: Path) -> dict[str, float]:
    """Return the mean Dice and HD95 of predicted test cases."""
    from unetkit.evaluation import evaluate_dataset
    from unetkit.recipe import DataSection, EvaluateSection

    section = DataSection(root=str(data))
    scores = evaluate_dataset(predictions, "test", data=section, rules=EvaluateSection()).to_json()
    return {"dice": scores["dice"], "per_class": scores["per_class"]}


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown, with nnU-Net's time over unetkit's."""
    rows = [
        ("fingerprint and plan", lambda r: r["preprocess"]["fingerprint"] + r["preprocess"]["plan"]),
        ("preprocess", lambda r: r["preprocess"]["preprocess"]),
        ("training step", lambda r: r["train"]["step"]),
        ("training step without loading", lambda r: r["train"]["step_without_loading"]),
        ("predict all test cases", lambda r: r["predict"]["seconds"]),
        ("of which network", lambda r: r["predict"]["network"]),
    ]
    lines = ["| seconds | nnU-Net | unetkit | ratio |", "|---|---|---|---|"]
    for name, value in rows:
        a, b = value(result["nnunet"]), value(result["unetkit"])
        lines.append(f"| {name} | {a:.3g} | {b:.3g} | {a / b:.2f} |")
    steps = [result[side]["train"]["steps"] for side in ("nnunet", "unetkit")]
    lines.append(f"| steps in the same time | {steps[0]} | {steps[1]} | {steps[1] / steps[0]:.2f} |")
    dice = [result[side]["score"]["dice"] for side in ("nnunet", "unetkit")]
    lines.append(f"| test Dice | {dice[0]:.4f} | {dice[1]:.4f} | {dice[1] - dice[0]:+.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

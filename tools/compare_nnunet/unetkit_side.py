"""unetkit's half of the comparison: one stage per process, each prints a JSON line with what it measured."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from timing import Stopwatch, timed_network

from unetkit.recipe import Recipe, resolve

EPOCHS = 10
"""Of the shortened training; the learning rate follows the steps."""
_PROBE = 12
"""Steps from which the number that fits the time is taken."""


def recipe_of(args: argparse.Namespace, *words: str, epochs: int = EPOCHS) -> Recipe:
    """Return nnU-Net's network and plan, trained and predicted unetkit's way."""
    return resolve(
        [
            "recipe=auto",
            "model.name=plain_unet",
            f"data.root={args.data}",
            f"plan.file={args.plan}",
            f"plan.configuration={args.configuration}",
            "data.cache=disk",
            f"data.store={args.work / 'store'}",
            f"output={args.work}",
            f"train.epochs={epochs}",
            f"train.validate_every={epochs}",
            "train.select=last",
            f"train.device={args.device}",
            f"train.compile={'true' if args.compile else 'false'}",
            *words,
        ]
    ).recipe


def preprocess(args: argparse.Namespace) -> dict[str, float]:
    """Fingerprint, plan, preprocess."""
    from unetkit.data.datasets import open_dataset
    from unetkit.data.splits import make_split
    from unetkit.engine.prepare import Preparation, training_cases, validation_cases
    from unetkit.plan import decide, measure
    from unetkit.registry import model_info

    shutil.rmtree(args.work, ignore_errors=True)
    recipe = recipe_of(args)
    watch = Stopwatch()
    dataset = open_dataset(recipe.data)
    split = make_split(dataset, recipe.data.split)
    # as nnU-Net, which measures all cases that train or validate; nothing measured before may help
    fingerprint = measure(dataset, (*split.train, *split.val), args.threads, home=args.work / "parts")
    measured = watch.lap()
    plan = decide(fingerprint, recipe, model_info(recipe.model.name))
    decided = watch.lap()
    preparation = Preparation(dataset, split, plan)
    training_cases(preparation, recipe, False)
    validation_cases(preparation, recipe, False)
    return {"fingerprint": measured, "plan": decided, "preprocess": watch.lap()}


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train for the given minutes; the steps that fit them are taken from a short run before."""
    from unetkit.engine.train import train as run

    short = recipe_of(args, "name=probe", f"train.steps_per_epoch={_PROBE}", epochs=1)
    probe = _steps(run(short, progress=False).run)
    steps = max(1, math.floor(args.minutes * 60 / probe["step"] / EPOCHS))
    done = run(recipe_of(args, "name=compared", f"train.steps_per_epoch={steps}"), progress=False)
    found = _steps(done.run)
    return {"steps": steps * EPOCHS, **found}


def _steps(run: Path) -> dict[str, float]:
    """Read seconds per step, with and without the wait for the loader, from a run's log."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seen = [r for r in records if "steps_per_second" in r]
    # a record stands for the steps since the one before
    counts = [b["step"] - a for a, b in zip([0, *(r["step"] for r in seen)], seen, strict=False)]
    seconds = [n / r["steps_per_second"] for n, r in zip(counts, seen, strict=True)]
    waits = [s * r["loader_wait"] for s, r in zip(seconds, seen, strict=True)]
    # the first record holds the warm-up
    first = 1 if len(seen) > 1 else 0
    number = sum(counts[first:])
    step = sum(seconds[first:]) / number
    return {"step": step, "step_without_loading": step - sum(waits[first:]) / number, "seconds": sum(seconds)}


def predict(args: argparse.Namespace) -> dict[str, float]:
    """Predict the test cases from files to files, and tell how long the network itself took."""
    import unetkit
    from unetkit.evaluation import cases_of_run
    from unetkit.infer.folder import predict_cases

    run = args.work / "compared"
    predictor = unetkit.load(run, device=args.device)
    cases = cases_of_run(run, "test", {})
    with timed_network(predictor.network) as network:
        watch = Stopwatch()
        summary = predict_cases(predictor, cases, args.output, overwrite=True)
        seconds = watch.lap()
    if summary["failed"]:
        raise SystemExit(f"failed: {summary['failed']}")
    return {"seconds": seconds, "network": network.total()}


def main() -> None:
    """Run one stage."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stage", choices=("preprocess", "train", "predict"))
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--plan", type=Path, required=True)
    p.add_argument("--work", type=Path, required=True)
    p.add_argument("--configuration", default="3d_fullres")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", default="cpu")
    p.add_argument("--minutes", type=float, default=1.0)
    p.add_argument("--compile", action="store_true", help="compile the network (off by default, as in recipes)")
    p.add_argument("--output", type=Path)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({"preprocess": preprocess, "train": train, "predict": predict}[args.stage](args)))


if __name__ == "__main__":
    main()

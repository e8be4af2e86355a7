"""nnU-Net's half of the comparison: one stage per process, each prints a JSON line with what it measured.

Run by compare.py, which sets nnU-Net's three folders in the environment before nnU-Net is imported.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from timing import Stopwatch, timed_network

DATASET = 900
EPOCHS = 10
"""Of the shortened training; the learning rate follows them."""


def preprocess(args: argparse.Namespace) -> dict[str, float]:
    """Fingerprint, plan, preprocess."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    watch = Stopwatch()
    api.extract_fingerprints([DATASET], num_processes=args.threads, show_progress_bar=False)
    fingerprint = watch.lap()
    api.plan_experiments([DATASET])
    plan = watch.lap()
    api.preprocess(
        [DATASET], configurations=[args.configuration], num_processes=[args.threads], show_progress_bar=False
    )
    return {"fingerprint": fingerprint, "plan": plan, "preprocess": watch.lap()}


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train for the given minutes, in epochs of equal time; then take the time of steps that wait for no data."""
    trainer = _trainer(args)
    trainer.num_epochs = EPOCHS  # the learning rate follows the epochs
    trainer.on_train_start()
    watch, steps = Stopwatch(), 0
    for epoch in range(1, EPOCHS + 1):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        losses = []
        while not losses or watch.total() < args.minutes * 60 * epoch / EPOCHS:
            losses.append(trainer.train_step(next(trainer.dataloader_train)))
        steps += len(losses)
        watch.pause()  # validation is no part of the budget, on either side
        trainer.on_train_epoch_end(losses)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()
        watch.go_on()
    seconds = watch.total()
    batch = next(trainer.dataloader_train)
    alone = Stopwatch()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    alone.lap()
    for _ in range(args.probe):
        trainer.train_step(batch)
    alone_step = alone.lap() / args.probe
    return {"steps": steps, "seconds": seconds, "step": seconds / steps, "step_without_loading": alone_step}


def predict(args: argparse.Namespace) -> dict[str, float]:
    """Predict the test cases from files to files, and tell how long the network itself took."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    results, raw = (Path(os.environ[name]) for name in ("nnUNet_results", "nnUNet_raw"))
    folder = next(results.glob(f"Dataset{DATASET:03d}_*/*__{args.configuration}"))
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(args.device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    images = next(raw.glob(f"Dataset{DATASET:03d}_*")) / "imagesTs"
    with timed_network(predictor.network) as network:
        watch = Stopwatch()
        predictor.predict_from_files(
            str(images),
            str(args.output),
            num_processes_preprocessing=args.threads,
            num_processes_segmentation_export=args.threads,
        )
        return {"seconds": watch.lap(), "network": network.total()}


def _trainer(args: argparse.Namespace):
    from nnunetv2.run.run_training import get_trainer_from_args

    return get_trainer_from_args(str(DATASET), args.configuration, 0, device=torch.device(args.device))


def main() -> None:
    """Run one stage."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stage", choices=("preprocess", "train", "predict"))
    p.add_argument("--configuration", default="3d_fullres")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", default="cpu")
    p.add_argument("--minutes", type=float, default=1.0)
    p.add_argument("--probe", type=int, default=3)
    p.add_argument("--output", type=Path)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({"preprocess": preprocess, "train": train, "predict": predict}[args.stage](args)))


if __name__ == "__main__":
    main()

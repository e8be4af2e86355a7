"""Seconds from image files to a case that a loader reads: nnU-Net's preprocessor into Blosc2, unetkit into its store.

Both work by unetkit's plan for the data set: the same spacing, crop, transposition, normalisation and spline orders.
Cases are prepared one after the other, by one process with `--threads` threads.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import common


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("root", help="folder of a data set (any layout that unetkit reads, NIfTI files)")
    p.add_argument("--cases", type=int, default=1, help="cases per call, the first of the training")
    p.add_argument("--scratch", default="", help="folder for what is written (default: a temporary one)")
    p.add_argument("--set", action="append", default=[], help="a recipe key, such as data.split.kind=random")
    args = p.parse_args()
    args.threads = args.threads or 1
    import torch

    torch.set_num_threads(args.threads)
    from unetkit.engine.prepare import prepare_plan
    from unetkit.recipe import resolve

    # Sizes of patch and network are nothing to preprocessing; these keys just make the plan quickly.
    keys = ["model.name=plain_unet", "data.patch_size=[64,64,64]", "train.batch_size=2"]
    preparation = prepare_plan(resolve([f"data.root={args.root}", *keys, *args.set]).recipe)
    plan = preparation.plan
    cases = [preparation.dataset.case(name) for name in preparation.split.train[: args.cases]]
    print(f"spacing {plan.spacing}, transpose {plan.transpose}, crop {plan.crop_nonzero}, {plan.normalization}")
    with tempfile.TemporaryDirectory(dir=args.scratch or None) as root:
        c = common.Contenders()
        c.add("nnunet preprocessor, blosc2")(lambda: nnunet(cases, plan, Path(root), args.threads))
        c.add("unetkit store")(lambda: unetkit(cases, plan, Path(root)))
        ready, skipped = c.build(common.wanted(args))
        stats, _, failed = common.run(ready, args.repeats, args.warmup, args.budget)
        common.report(
            f"{len(cases)} case(s) of {args.root}",
            stats,
            args.reference or "nnunet preprocessor, blosc2",
            None,
            skipped | failed,
            vars(args),
            args.json,
        )


def unetkit(cases, plan, root):
    """Fill a new store."""
    from unetkit.data.store import open_store

    turns = iter(range(10**6))

    def call():
        store = open_store(root / f"store{next(turns)}")
        return [store.add(case, plan, store.names(case, plan)) for case in cases]

    return call


def nnunet(cases, plan, root, threads):
    """Run nnU-Net's default preprocessor on the same files."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(root))
    import blosc2
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    blosc2.set_nthreads(threads)
    manager = PlansManager(nnunet_plans(plan))
    configuration = manager.get_configuration("3d_fullres")
    labels = {"background": 0} | {
        name: values[0] for name, values in zip(plan.labels.classes, plan.labels.values, strict=True)
    }
    dataset = {"channel_names": dict(enumerate(plan.channels)), "labels": labels, "file_ending": ".nii.gz"}
    worker = DefaultPreprocessor(verbose=False)
    (root / "nnunet").mkdir(exist_ok=True)

    def call():
        for case in cases:
            for file in (root / "nnunet").glob("*"):
                file.unlink()
            files = [str(path) for path in case.images]
            worker.run_case_save(
                str(root / "nnunet" / case.id), files, str(case.label), manager, configuration, dataset
            )

    return call


def nnunet_plans(plan):
    """unetkit's plan in nnU-Net's words, as far as its preprocessor reads them."""
    scheme = {"ct": "CTNormalization", "zscore": "ZScoreNormalization", "zscore_mask": "ZScoreNormalization"}
    # unetkit transposes RAS (x, y, z); nnU-Net reads files as (z, y, x).
    order = [2 - axis for axis in plan.transpose]
    resampling = {
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    configuration = {
        "data_identifier": "fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.batch_size,
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing),
        "normalization_schemes": [scheme[rule.scheme] for rule in plan.normalization],
        "use_mask_for_norm": [rule.scheme == "zscore_mask" for rule in plan.normalization],
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        **resampling,
    }
    intensities = {
        str(number): {
            "mean": rule.mean,
            "std": rule.std,
            "percentile_00_5": rule.low,
            "percentile_99_5": rule.high,
        }
        for number, rule in enumerate(plan.normalization)
    }
    tree = {
        "dataset_name": "bench",
        "plans_name": "bench",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": order,
        "transpose_backward": [order.index(axis) for axis in range(3)],
        "configurations": {"3d_fullres": configuration},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": intensities,
    }
    return json.loads(json.dumps(tree))


if __name__ == "__main__":
    main()

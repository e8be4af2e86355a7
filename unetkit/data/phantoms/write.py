"""Generated cases as files: an ordinary data set on disk, made once and kept.

A set lies in a folder named by generator, version and a digest of all that decides its content. It is written
under another name and renamed when complete, so a folder with the right name is never half a set.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from unetkit.data.phantoms.options import read_options
from unetkit.data.phantoms.sample import Generator, Sample
from unetkit.errors import DataError

VERSION = 1
"""Of the generated content: to be raised with any change that alters a case, so that old copies are not reused."""

_STALE_SECONDS = 24 * 3600.0


def generate(
    name: str, options: dict[str, Any], count: int | None = None, home: Path | None = None, workers: int | None = None
) -> Path:
    """Write the data set of a generator, unless it is there already, and return its folder.

    `count` is the number of all cases, of which about a quarter are test cases; `home` is the folder that
    receives the sets. A case depends on the seed and its own number alone, not on `count` or `workers`.
    Raises RecipeError for an unknown generator or option, DataError where the folder cannot be written.
    """
    checked = read_options(name, options)
    numbers = _case_numbers(checked.counts, count)
    # Recipes that mean the same content must not make two sets: the key has all defaults filled in.
    asked = {"name": name, "version": VERSION, **checked.model_dump(mode="json")}
    key = json.dumps({**asked, **{side: len(of_side) for side, of_side in numbers.items()}}, sort_keys=True)
    home = Path.home() / ".cache" / "unetkit" if home is None else Path(home)
    folder = home / f"{name}-v{VERSION}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    # Found by digest and complete by construction, a set that is there needs no check of its content.
    if not (folder / "manifest.json").is_file():
        generator = _builder(name, checked)()
        with _complete_or_absent(folder) as draft:
            entries = _write_cases(partial(_write_case, draft, generator, checked.seed), numbers, workers)
            _write_manifest(draft, generator, asked, entries)
    return folder


def _builder(name: str, options: Any) -> Callable[[], Generator]:
    """Choose the family, importing it alone."""
    from unetkit.data.phantoms import brain, cells, shapes, torso, vessels

    families: dict[str, Callable[[Any], Generator]] = {
        "torso": torso.torso2d,
        "cells": cells.cells,
        "vessels": vessels.vessels,
        "phantom3d": torso.torso3d,
        "shapes": shapes.shapes,
        "brain3d": brain.brain3d,
    }
    return partial(families[options.family if name == "phantom2d" else name], options)


def _case_numbers(usual: tuple[int, int], count: int | None) -> dict[str, list[int]]:
    """Return which training and which test cases to make; the test has a share of any count above one."""
    train, test = usual
    if count is not None:
        # At least one test case, and at least one left to train on.
        test = min(max(round(count * test / (train + test)), 1), count - 1)
        train = count - test
    return {"train": list(range(train)), "test": list(range(test))}


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """Give a draft folder that becomes `folder` if the block ends well and disappears if it does not."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".draft", dir=folder.parent))
        try:
            yield draft
            draft.chmod(0o755)
            _rename(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"the generated data set cannot be written to {folder.parent} ({error.strerror or error}); make room and "
            "the folder writable, or name another one as home"
        ) from error


def _rename(draft: Path, folder: Path) -> None:
    """Put the draft in its place; another process that made the same set first has won."""
    try:
        os.rename(draft, folder)
    except OSError:
        if not (folder / "manifest.json").is_file():
            raise


def _sweep(home: Path) -> None:
    """Remove the drafts of processes that were killed long ago."""
    for draft in home.glob(".*.draft"):
        try:
            if time.time() - draft.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)
        except FileNotFoundError:
            continue


def _write_cases(
    write: Callable[[str, int], dict[str, Any]], numbers: dict[str, list[int]], workers: int | None
) -> dict[str, dict[str, Any]]:
    """Draw and write all cases, several at a time, and return their entries by case id."""
    jobs = [(side, number) for side, of_side in numbers.items() for number in of_side]
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        entries = list(pool.map(lambda job: write(*job), jobs))
    return {_case_id(*job): entry for job, entry in zip(jobs, entries, strict=True)}


def _write_manifest(
    draft: Path, generator: Generator, asked: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> None:
    """Write what makes the folder a data set; last, so that a manifest means that all is there."""
    manifest = {
        "name": asked["name"],
        "description": generator.description,
        "labels": {str(value): meaning for value, meaning in generator.labels.items()},
        "channels": list(generator.channels),
        "cases": entries,
        "train": [case for case in entries if case.startswith("train")],
        "test": [case for case in entries if case.startswith("test")],
        "generator": asked,
    }
    if generator.example:
        _write_volume(draft / "example" / "image.nii.gz", generator.example[0], generator.example[1])
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _case_id(side: str, number: int) -> str:
    return f"{side}_{number:03d}"


def case_generator(seed: int, side: str, number: int) -> np.random.Generator:
    """Return the random generator of one case: the child that `SeedSequence(seed)` would spawn for it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(("train", "test").index(side), number)))


def _write_case(draft: Path, generator: Generator, seed: int, side: str, number: int) -> dict[str, Any]:
    """Write the files of one case and return its entry in the manifest."""
    sample = generator.draw(case_generator(seed, side, number))
    case = _case_id(side, number)
    entry: dict[str, Any] = {
        "image": _write_images(draft, sample, case),
        "label": _write_map(draft, "labels", sample, sample.label, case),
        "group": case,
    }
    if sample.roi is not None:
        entry["roi"] = _write_map(draft, "roi", sample, sample.roi.astype(np.uint8) * 255, case)
    for folder, values in sample.extras.items():
        _write_map(draft, folder, sample, values, case)
    return entry | {"facts": sample.facts}


def _write_images(draft: Path, sample: Sample, case: str) -> str | list[str]:
    """Write a picture with all its channels, or a volume per channel; returns the relative path or paths."""
    if sample.spacing is None:
        picture = np.moveaxis(sample.images, 0, -1)
        return _write_map(draft, "images", sample, picture[..., 0] if picture.shape[-1] == 1 else picture, case)
    paths = [
        _write_map(draft, "images", sample, image, case if len(sample.images) == 1 else f"{case}_{channel:04d}")
        for channel, image in enumerate(sample.images)
    ]
    return paths[0] if len(paths) == 1 else paths


def _write_map(draft: Path, folder: str, sample: Sample, values: np.ndarray, stem: str) -> str:
    """Write one array as PNG or NIfTI; returns its path within the set."""
    path = draft / folder / (f"{stem}.png" if sample.spacing is None else f"{stem}.nii.gz")
    if sample.spacing is None:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
    else:
        _write_volume(path, values, _affine(sample.spacing, values.shape))
    return f"{folder}/{path.name}"


def _affine(spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Right, front and up are the directions of the axes (RAS+); the middle of the volume is the origin."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-s * (n - 1) / 2 for s, n in zip(spacing, shape, strict=True)]
    return affine


def _write_volume(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)

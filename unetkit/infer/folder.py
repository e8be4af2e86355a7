"""Files and folders of images in, files of label maps out; reading and writing go on beside the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.data.formats.files import remove_empty, replacing, require_writable, stem_of, suffix_of
from unetkit.data.labels import decode
from unetkit.data.layouts.found import image_files
from unetkit.data.volumes import is_known, known_suffixes, read_images, write_volume
from unetkit.errors import DataError, UnetkitError
from unetkit.infer.scores import write_scores
from unetkit.infer.segmenter import Segmentation, Segmenter
from unetkit.infer.shortage import REMEDY, explained_shortage
from unetkit.progress import Progress
from unetkit.types import Case, Labels, Volume

# nnU-Net's way to name the channels of a case: four digits at the end.
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_INSIDE = ("imagesTs", "images", "imagesTr")
# JPEG and palettes would change label values; .mhd is two files, which cannot be replaced at once.
_WRITTEN_AS = {".jpg": ".png", ".jpeg": ".png", ".gif": ".png", ".mhd": ".mha"}
_ARRAYS = (".npz", ".npy.h5", ".h5")


@dataclass(frozen=True)
class Job:
    """A case and the file that receives its label map."""

    case: Case
    target: Path

    @property
    def chances(self) -> Path:
        """The file for its probabilities."""
        return self.target.with_name(f"{stem_of(self.target)}_probabilities.npz")


@dataclass
class Summary:
    """What became of each case."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)


def predict_files(
    segmenter: Segmenter,
    input: Path,
    output: Path,
    *,
    overwrite: bool = False,
    probabilities: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict a file, or every image of a folder (or of its imagesTs or images), into the folder `output`.

    Files that nnU-Net would name case_0000, case_0001, ... are the channels of one case. Label maps hold the values
    that stood in the training labels, and keep the image's format where it can hold them unchanged. For a single
    file `output` may be a file too. See `predict_cases`.
    Raises DataError if there is nothing to predict or the output cannot be written, before any work is done.
    """
    input, output = Path(input), Path(output)
    channels = len(segmenter.plan.channels)
    # The folder's own files first; only then the places where data sets keep images, unseen ones (Ts) before others.
    if input.is_dir():
        cases = _cases_in(input, channels)
    elif input.is_file():
        # One file named of a case with several channels stands for the case; its other channels lie beside it.
        found = _group(image_files(input.parent), channels)
        cases = [c for c in found if input in c.images] or [Case(stem_of(input), (input,))]
        if is_known(output) and not output.is_dir():
            return _run(segmenter, [Job(cases[0], _writable(output))], overwrite, probabilities, progress)
    else:
        raise DataError(f"input={input}: no such file or folder; give an image, or a folder of images")
    return predict_cases(segmenter, cases, output, overwrite=overwrite, probabilities=probabilities, progress=progress)


def predict_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    output: Path,
    *,
    overwrite: bool = False,
    probabilities: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict cases into a folder and return {"done": files, "skipped": files, "failed": [{"case", "error"}]}.

    What is there already is skipped unless `overwrite`; a case that fails is named and the others go on. With
    `probabilities` a .npz with float32 [K, *S] lies beside each label map, and a .json with the scores of objects that
    have some. `progress` is called with (cases, of all).
    Raises DataError if the folder cannot be written or two cases would share a file, before any work is done.
    """
    jobs = [Job(case, output / f"{case.id}{_written_as(case, segmenter)}") for case in cases]
    return _run(segmenter, jobs, overwrite, probabilities, progress)


def _cases_in(folder: Path, channels: int) -> list[Case]:
    for place in (folder, *(folder / name for name in _INSIDE)):
        if files := image_files(place):
            return _group(files, channels)
    raise DataError(
        f"input={folder}: holds no image, nor does {', '.join(_INSIDE)} in it; known are {', '.join(known_suffixes)}"
    )


def _group(files: Sequence[Path], channels: int) -> list[Case]:
    """Make cases of files; name_0000 and so on are one case if there are just as many as the network takes."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        if match := _CHANNEL.match(stem_of(file)):
            groups.setdefault(match[1], []).append(file)
    whole = {name for name, found in groups.items() if _numbers(found) == list(range(channels))}
    cases = {}
    for file in files:
        match = _CHANNEL.match(stem_of(file))
        if match and match[1] in whole:
            cases[match[1]] = Case(match[1], tuple(sorted(groups[match[1]])))
        else:
            cases[file.name] = Case(stem_of(file), (file,))
    return list(cases.values())


def _numbers(files: Sequence[Path]) -> list[int]:
    return sorted(int(stem_of(file)[-4:]) for file in files)


def _written_as(case: Case, segmenter: Segmenter) -> str:
    """Return the suffix of the case's label map: that of the image, unless that format would change it."""
    suffix = suffix_of(case.images[0]) if case.images else ""
    if suffix in _ARRAYS:
        return ".nii.gz" if segmenter.volumes else ".png"
    return _WRITTEN_AS.get(suffix, suffix)


def _writable(path: Path) -> Path:
    suffix = suffix_of(path)
    if suffix in _ARRAYS or suffix in _WRITTEN_AS:
        raise DataError(f"output={path}: label maps are not written as {suffix}; use .nii.gz, .mha, .tif or .png")
    return path


def _run(
    segmenter: Segmenter, jobs: Sequence[Job], overwrite: bool, probabilities: bool, progress: Progress | None
) -> dict[str, Any]:
    made = _check_targets(jobs)
    summary = Summary()
    todo = []
    for job in jobs:
        # Files are moved into place when they are whole, so that one that is there is done.
        there = job.target.is_file() and (job.chances.is_file() or not probabilities)
        if there and not overwrite:
            summary.skipped.append(str(job.target))
        else:
            todo.append(job)
    try:
        # Threads, not processes: reading, resampling and compressing let go of the interpreter; nothing is copied.
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            line = _Line(segmenter, reader, writer, probabilities, summary)
            for number, job in enumerate(todo):
                line.predict(job, todo[number + 1] if number + 1 < len(todo) else None)
                if progress:
                    progress(number + 1, len(todo))
            line.finish()
    finally:
        remove_empty(made)  # where every case failed
    return vars(summary)


def _check_targets(jobs: Sequence[Job]) -> list[Path]:
    """Refuse files that would be lost or shared, and return the folders that had to be made, innermost first."""
    owners: dict[Path, str] = {}
    images = {image.resolve() for job in jobs for image in job.case.images}
    for job in jobs:
        target = job.target.resolve()
        if target in images:
            raise DataError(f"{job.target}: the label map would replace the image; choose another output folder")
        if target in owners:
            raise DataError(f"{job.target}: two images ({owners[target]}, {job.case.images[0]}) share it; rename one")
        owners[target] = str(job.case.images[0] if job.case.images else job.case.id)
    made: list[Path] = []
    for folder in {job.target.parent for job in jobs}:
        # Before any work: after hours of prediction nobody wants to learn that the folder takes no file.
        made += require_writable(folder)
    return made


class _Line:
    """Three cases at once: one is read, one is in the network, one is written."""

    def __init__(
        self,
        segmenter: Segmenter,
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        probabilities: bool,
        summary: Summary,
    ) -> None:
        self.segmenter, self.reader, self.writer = segmenter, reader, writer
        self.probabilities, self.summary = probabilities, summary
        self.ahead: Future[tuple[Volume, Any]] | None = None
        self.writing: tuple[Job, Future[None]] | None = None

    def predict(self, job: Job, following: Job | None) -> None:
        """Predict one case while the following one is read and the one before is written."""
        read = self.ahead or self.reader.submit(self._read, job.case)
        # Submitted before waiting: one case is read while the network has another, and no more, for memory's sake.
        self.ahead = self.reader.submit(self._read, following.case) if following else None
        try:
            volume, prepared = read.result()
            found = self.segmenter.segment(prepared, probabilities=self.probabilities)
        except UnetkitError as error:
            self._fail(job, error)
            return
        self.finish()  # at most one result waits to be written
        self.writing = (job, self.writer.submit(_write, job, volume, found, self.segmenter.plan.labels))

    def finish(self) -> None:
        """Wait for the file that is being written."""
        if self.writing is None:
            return
        job, written = self.writing
        self.writing = None
        try:
            written.result()
            self.summary.done.append(str(job.target))
        except UnetkitError as error:
            self._fail(job, error)

    def _read(self, case: Case) -> tuple[Volume, Any]:
        with explained_shortage(case.id, REMEDY):
            volume = read_images(case)
        return volume, self.segmenter.prepare(volume, case.id)

    def _fail(self, job: Job, error: UnetkitError) -> None:
        self.summary.failed.append({"case": job.case.id, "error": str(error)})


def write_labels(image: Volume, encoded: np.ndarray, labels: Labels, path: Path) -> None:
    """Write encoded labels uint8 [L, *S] of an image as a file with the values of the training labels.

    It is there whole or not at all. Raises DataError if it cannot be written.
    """
    write_volume(replace(image, data=decode(encoded, labels)[None]), path)


def _write(job: Job, image: Volume, found: Segmentation, labels: Labels) -> None:
    with explained_shortage(job.case.id, REMEDY):
        if found.chances is not None:
            with replacing(job.chances) as temporary:
                np.savez_compressed(temporary, probabilities=found.chances)
        if found.scores is not None:
            write_scores(job.target, found.scores)
        # Last, since its presence says that the case is done.
        write_labels(image, found.encoded, labels, job.target)

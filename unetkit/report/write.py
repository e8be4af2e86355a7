"""Put a report and its pictures into a folder."""

from __future__ import annotations

import os
from pathlib import Path

from unetkit.errors import DataError
from unetkit.report.data import ROLES, ReportData
from unetkit.report.tables import number


def write_report(folder: Path, data: ReportData) -> Path:
    """Write `report.html` and `pictures/*.png` below a folder, replacing what is there, and return the report's path.

    The pictures are curves.png, if there is a history, and an overlay for each role; those that an earlier report had
    and this one lacks are removed.
    Raises DataError if the folder cannot be written.
    """
    from unetkit.report.page import render_page  # matplotlib is slow to import, and wanted at the end of a run alone

    report = folder / "report.html"
    try:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        made = _pictures(data)
        for name, content in made.items():
            _replace(folder / "pictures" / name, content)
        # By name, since the folder is the user's: only what a report writes is a report's to remove.
        for name in {"curves.png", *map(overlay_name, ROLES)} - set(made):
            (folder / "pictures" / name).unlink(missing_ok=True)
        _replace(report, render_page(data).encode())
    except OSError as error:
        raise DataError(
            f"{folder}: the report cannot be written ({error.strerror}); free space or choose another folder"
        ) from error
    return report


def write_page(path: Path, html: str) -> Path:
    """Write one page, replacing what is there, and return its path. Raises DataError if it cannot be written."""
    return write_picture(path, html.encode())


def write_picture(path: Path, content: bytes) -> Path:
    """Write the bytes of one file, as `write_page` does, making its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder") from error
    return path


def overlay_name(role: str) -> str:
    """Return the file name of the picture of a role (best, median, worst)."""
    return f"overlay_{role}.png"


def _pictures(data: ReportData) -> dict[str, bytes]:
    from unetkit.report.figures import curves_figure, overlay_figure, png

    made = {}
    curves = curves_figure(data.history)
    if curves is not None:
        made["curves.png"] = png(curves)
    for role, shown in data.pictures.items():
        title = f"{role}: {shown.case}, Dice {number('dice', shown.dice)}"
        made[overlay_name(role)] = png(overlay_figure(shown.picture, data.classes, title))
    return made


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file and move into place, so that no half-written report is left."""
    # A report may be open in a browser, or its folder watched, while a run rewrites it.
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

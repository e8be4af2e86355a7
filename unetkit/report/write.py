"""Put a report and its pictures into a folder."""

from __future__ import annotations

import os
from pathlib import Path

from unetkit.errors import DataError
from unetkit.report.data import ReportData
from unetkit.report.figures import curves_figure, overlay_figure, png
from unetkit.report.page import render_page
from unetkit.report.tables import number


def write_report(folder: Path, data: ReportData) -> Path:
    """Write `report.html` and `pictures/*.png` below a folder, replacing what is there, and return the report's path.

    The pictures are curves.png, if there is a history, and overlay_best.png, overlay_median.png, overlay_worst.png.
    Raises DataError if the folder cannot be written.
    """
    report = folder / "report.html"
    try:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        for name, content in _pictures(data).items():
            _replace(folder / "pictures" / name, content)
        _replace(report, render_page(data).encode())
    except OSError as error:
        raise DataError(
            f"{folder}: the report cannot be written ({error.strerror}); free space or choose another folder"
        ) from error
    return report


def _pictures(data: ReportData) -> dict[str, bytes]:
    made = {}
    curves = curves_figure(data.history)
    if curves is not None:
        made["curves.png"] = png(curves)
    for role, shown in data.pictures.items():
        title = f"{role}: {shown.case}, Dice {number('dice', shown.dice)}"
        made[f"overlay_{role}.png"] = png(overlay_figure(shown.picture, data.classes, title))
    return made


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file and move into place, so that no half-written report is left."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

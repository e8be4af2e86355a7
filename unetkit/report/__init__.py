"""One HTML report a run, and its pictures, from plain names, numbers and arrays."""

from unetkit.report.data import ROLES, ReportData, Shown
from unetkit.report.overlay import overlay, paint_classes, square_pixels
from unetkit.report.picture import Picture, take_picture
from unetkit.report.write import overlay_name, write_report

__all__ = [
    "ROLES",
    "Picture",
    "ReportData",
    "Shown",
    "overlay",
    "overlay_name",
    "paint_classes",
    "square_pixels",
    "take_picture",
    "write_report",
]

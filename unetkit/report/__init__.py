"""One HTML report a run, and its pictures, from plain names, numbers and arrays."""

from unetkit.report.data import ReportData, Shown
from unetkit.report.overlay import overlay, paint_classes
from unetkit.report.picture import Picture, take_picture
from unetkit.report.write import write_report

__all__ = ["Picture", "ReportData", "Shown", "overlay", "paint_classes", "take_picture", "write_report"]

"""Curves and overlays as matplotlib figures, made without its global state."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from unetkit.report.overlay import (
    ERROR_LEGEND,
    Colour,
    class_colour,
    overlay,
    paint_classes,
    paint_objects,
    square_pixels,
)
from unetkit.report.picture import Picture

Record = Mapping[str, Any]
INK, MUTED, _GRID = "#1d2733", "#5b6877", "#e3e8ee"
LINE, SECOND = "#0072b2", "#d55e00"
_CURVES_SIZE = (4.6, 3.0)
_PNG_LEVEL = 4
"""Higher ones take several times as long for a few percent."""


def panels(picture: Picture, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the pictures that tell one case, title to uint8 [H, W, 3].

    Class maps are drawn only where there are several classes, objects where they are told apart, the image only if
    there is one and not just black.
    """
    big = square_pixels(picture)
    plain = big.image if big.image.ndim == 3 else np.repeat(big.image[..., None], 3, axis=-1)
    # Label files that were compared without their images come with a black one.
    shown = {"image": plain} if plain.any() else {}
    if len(classes) > 1:
        shown |= {"reference": paint_classes(big.image, big.ref), "prediction": paint_classes(big.image, big.pred)}
    if big.objects is not None:
        found, truth = paint_objects(big.image, big.objects)
        shown |= {"reference objects": truth, "predicted objects": found}
    return shown | {"agreement and errors": overlay(big.image, big.pred, big.ref)}


def error_legend(classes: Sequence[str]) -> dict[str, Colour]:
    """Return name and colour of what an overlay can show; one class alone cannot be mistaken for another."""
    return {name: colour for name, colour in ERROR_LEGEND.items() if len(classes) > 1 or name != "wrong class"}


def class_legend(picture: Picture, classes: Sequence[str]) -> dict[str, Colour]:
    """Return name and colour of the classes that are to be seen in a picture."""
    seen = set()
    for encoded in (picture.pred, picture.ref):
        if encoded.shape[0] > 1:
            # Regions have a channel each, exclusive classes share one and count from 1.
            seen |= {number for number, region in enumerate(encoded) if (region == 1).any()}
        else:
            seen |= {int(value) - 1 for value in np.unique(encoded)}
    return {name: class_colour(number) for number, name in enumerate(classes) if number in seen}


def overlay_figure(picture: Picture, classes: Sequence[str], title: str) -> Figure:
    """Return all panels of one case in a row with their legends."""
    shown = panels(picture, classes)
    height, width = next(iter(shown.values())).shape[:2]
    keys = class_legend(picture, classes) if len(classes) > 1 else {}
    # Two columns, rounded up; room for them is left below, since a legend outside of the axes takes none itself.
    legend_rows = -(-max(len(keys), len(ERROR_LEGEND)) // 2)
    side, above, below = 3.2, 0.75, 0.4 + 0.18 * legend_rows  # inches
    tall = above + side * height / width + below
    figure = Figure(figsize=(side * len(shown), tall), dpi=150)
    figure.subplots_adjust(0.01, below / tall, 0.99, 1 - above / tall, wspace=0.03)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (name, pixels) in zip(axes, shown.items(), strict=True):
        axis.imshow(pixels, interpolation="nearest")
        axis.set_title(name, fontsize=9, color=INK)
        axis.set_axis_off()
    figure.suptitle(f"{title}\n{picture.view}", fontsize=10, color=INK)
    _legend(axes[-1], "errors", error_legend(classes))
    if keys:
        _legend(axes[1], "classes", keys)
    return figure


def _legend(axis: Axes, title: str, colours: Mapping[str, Colour]) -> None:
    """Put a legend below one panel."""
    handles = [Patch(color=f"#{bytes(colour).hex()}", label=name) for name, colour in colours.items()]
    if handles:
        axis.legend(
            handles=handles,
            title=title,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.02),
            ncols=2,
            fontsize=8,
            title_fontsize=8,
            frameon=False,
        )


def curve_figures(history: Sequence[Record]) -> dict[str, Figure]:
    """Return one figure for each curve that the history has: loss, dice, rate."""
    return {name: _figure([draw], _CURVES_SIZE) for name, draw in _curves(history).items()}


def curves_figure(history: Sequence[Record]) -> Figure | None:
    """Return all curves side by side, or None if the history has none."""
    drawn = list(_curves(history).values())
    return _figure(drawn, (_CURVES_SIZE[0] * len(drawn), _CURVES_SIZE[1])) if drawn else None


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", facecolor="white", pil_kwargs={"compress_level": _PNG_LEVEL})
        return file.getvalue()


def svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element, without the date, so that equal numbers give equal text."""
    with io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = file.getvalue()
    return text[text.index("<svg") :]


def data_uri(pixels: np.ndarray) -> str:
    """Return uint8 [H, W, 3] as a PNG inside a data address."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="PNG", compress_level=_PNG_LEVEL)
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _curves(history: Sequence[Record]) -> dict[str, Callable[[Axes], None]]:
    # A curve is drawn where its key was logged, so that a resumed or cut run shows what it has.
    drawers = {"loss": (_draw_loss, "epoch_loss"), "dice": (_draw_dice, "val_dice"), "rate": (_draw_rate, "lr")}
    return {
        name: lambda axis, draw=draw: draw(axis, history)  # type: ignore[misc]
        for name, (draw, key) in drawers.items()
        if any(record.get(key) is not None for record in history)
    }


def _figure(drawers: Sequence[Callable[[Axes], None]], size: tuple[float, float]) -> Figure:
    # Figure itself, not pyplot: that would keep every figure in a global list and look for a display.
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    for axis, draw in zip(figure.subplots(1, len(drawers), squeeze=False)[0], drawers, strict=True):
        draw(axis)
        dress(axis)
        # There is no epoch 2.5.
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def dress(axis: Axes) -> None:
    """Give axes the looks of this package's figures: two spines, a pale grid behind, small grey ticks."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def _series(history: Sequence[Record], x: str, y: str) -> tuple[list[float], list[float]]:
    pairs = [(float(record[x]), float(record[y])) for record in history if record.get(y) is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def label(axis: Axes, title: str, x: str) -> None:
    """Put a title above axes, on the left, and say below what lies along x."""
    axis.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold")
    axis.set_xlabel(x, fontsize=8, color=MUTED)


def _draw_loss(axis: Axes, history: Sequence[Record]) -> None:
    epochs, losses = _series(history, "epoch", "epoch_loss")
    axis.plot(epochs, losses, color=LINE, linewidth=1.6, marker="o" if len(epochs) < 30 else "", markersize=3)
    label(axis, "training loss", "epoch")


def _draw_dice(axis: Axes, history: Sequence[Record]) -> None:
    epochs, scores = _series(history, "epoch", "val_dice")
    for name in {name: None for record in history for name in record.get("val_dice_per_class") or {}}:
        # Classes lie behind the mean, thin and grey: 13 colours could not be told apart.
        of_class = [
            {"epoch": record["epoch"], "y": (record.get("val_dice_per_class") or {}).get(name)} for record in history
        ]
        axis.plot(*_series(of_class, "epoch", "y"), color=MUTED, linewidth=0.8, alpha=0.45)
    axis.plot(epochs, scores, color=SECOND, linewidth=1.8, marker="o" if len(epochs) < 30 else "", markersize=3.5)
    # The first of equals, as training keeps it.
    best = int(np.argmax(scores))
    axis.annotate(
        f"best {scores[best]:.3f}",
        (epochs[best], scores[best]),
        xytext=(0, -14),
        textcoords="offset points",
        ha="right" if best else "left",
        fontsize=8,
        color=SECOND,
    )
    axis.set_ylim(0, 1.02)
    label(axis, "validation Dice, mean and classes", "epoch")


def _draw_rate(axis: Axes, history: Sequence[Record]) -> None:
    steps, rates = _series(history, "step", "lr")
    axis.plot(steps, rates, color=LINE, linewidth=1.6)
    label(axis, "learning rate", "step")

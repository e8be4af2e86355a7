"""From the name of a model to an SVG file that stands alone."""

from __future__ import annotations

import warnings
from html import escape

import torch

from unetkit.draw.boxes import find_boxes
from unetkit.draw.layout import BOX_HEIGHT, HEADER, MARGIN, Layout, Place, lines_of, place_boxes, size_text
from unetkit.draw.trace import trace
from unetkit.errors import ModelError, counted
from unetkit.registry import ModelInfo, create_model, model_info

_USUAL = {2: 128, 3: 64}
"""Side of the image that a network is drawn for if none was published, by dims."""
_STYLE = (
    "text{font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:11px;fill:#1d2733}"
    ".title{font-size:17px;font-weight:bold}.muted{fill:#5b6877}.name{font-weight:bold}"
    ".row{stroke:#e3e8ee}.line{fill:none;stroke:#5b6877;stroke-width:1.2}.skip{stroke:#d55e00}"
    ".down{fill:#d6e8f5;stroke:#0072b2}.up{fill:#fdebd8;stroke:#d55e00}.end{fill:#dff1e9;stroke:#009e73}"
)
_ARROWS = "".join(
    f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
    for name, colour in (("arrow", "#5b6877"), ("over", "#d55e00"))
)


def draw_model(name: str, *, dims: int | None = None, size: tuple[int, ...] | None = None) -> str:
    """Return the network of a registered model, with its default options, as an SVG document.

    It is drawn for an image of `size`, or else of the size of its published count, in `dims` 2 or 3.
    Raises ModelError for dims it lacks, ShapeError for a size it cannot take.
    """
    info = model_info(name)
    dims = len(size) if size else dims or min(info.params_at or info.dims)
    if dims not in info.dims:
        raise ModelError(f"{name}: there is no {dims}D network; choose dims={' or dims='.join(map(str, info.dims))}")
    layout, caption = _arranged(info, dims, size)
    return _document(layout, f"{info.title} ({name}, {dims}D)", caption)


def _arranged(info: ModelInfo, dims: int, size: tuple[int, ...] | None) -> tuple[Layout, str]:
    # in dims without a published count, with the channels of those that have one
    channels, classes = next(iter(info.params_at.values()), (1, 2, ()))[:2]
    usual = (channels, classes, info.legal_size((_USUAL[dims],) * dims))
    channels, classes, shape = info.params_at.get(dims, usual)
    shape = size or shape
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # about initial values that nobody will see
        network = create_model(info.name, in_channels=channels, num_classes=classes, patch_size=shape)
        call = trace(network, (1, channels, *shape))
    layout = place_boxes(find_boxes(call, shape))
    count = sum(p.numel() for p in network.parameters())
    return layout, f"{channels} x {size_text(shape)} to {counted(classes, 'class')}, {count:,} parameters"


def _document(layout: Layout, title: str, caption: str) -> str:
    width, height = max(layout.width, 2 * MARGIN + 8 * max(len(title) * 1.3, len(caption))), layout.height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f'<defs>{_ARROWS}</defs><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 10}">{escape(title)}</text>',
        f'<text class="muted" x="{MARGIN}" y="{HEADER - 10}">{escape(caption)}</text>',
    ]
    for label, y in layout.rows:
        parts.append(f'<text class="muted" x="{MARGIN}" y="{y + 4:.0f}">{escape(label)}</text>')
    for points, skip in zip(layout.lines, layout.skips, strict=True):
        drawn = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        kind, arrow = ("line skip", "over") if skip else ("line", "arrow")
        parts.append(f'<polyline class="{kind}" points="{drawn}" marker-end="url(#{arrow})"/>')
    fed = {number for place in layout.places for number in place.box.sources}
    parts += [_box(place, last=number not in fed) for number, place in enumerate(layout.places)]
    return "\n".join([*parts, "</svg>\n"])


def _box(place: Place, *, last: bool) -> str:
    box = place.box
    kind = "end" if last or not box.kind else "up" if place.coarse else "down"
    whole = f"{box.path or 'network'}: {box.kind}" if box.kind else "input"
    x = place.middle[0]
    texts = "".join(
        f'<text class="{style}" x="{x:.0f}" y="{place.y + 16 + 14 * i:.0f}" text-anchor="middle">{escape(line)}</text>'
        for i, (style, line) in enumerate(zip(("name", "", ""), lines_of(box), strict=True))
    )
    return (
        f'<g><title>{escape(whole)}</title><rect class="{kind}" x="{place.x:.0f}" y="{place.y:.0f}" '
        f'width="{place.width:.0f}" height="{BOX_HEIGHT}" rx="4"/>{texts}</g>'
    )

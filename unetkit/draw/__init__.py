"""A network as a picture: what runs, at which size, and what it is fed from, found by running it without content."""

from unetkit.draw.drawing import draw_model

__all__ = ["draw_model"]

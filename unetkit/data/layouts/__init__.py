"""How folders of images are laid out: one file a layout, each with `NEEDS` (a sentence) and `find`."""

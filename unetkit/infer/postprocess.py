"""What is done to predicted labels after the network."""

import numpy as np
from scipy import ndimage


def keep_largest(labels: np.ndarray) -> np.ndarray:
    """Keep only the largest component of each class in encoded labels [L, *S]; the rest becomes background.

    Voxels that touch at a face, edge or corner belong together; of equally large components the first stays.
    """
    out = np.zeros_like(labels)
    for layer, kept in zip(labels, out, strict=True):
        # In each class's own box: a small organ in a large volume costs little.
        for value, box in enumerate(ndimage.find_objects(layer), start=1):
            if box is not None:
                kept[box][_largest(layer[box] == value)] = value
    return out


def _largest(mask: np.ndarray) -> np.ndarray:
    # Ones everywhere: neighbours at edges and corners too, as scipy alone would count faces only.
    components, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    if count < 2:
        return mask
    return components == 1 + np.bincount(components.ravel())[1:].argmax()

"""Labels that number objects: encoded, moved, read back; distances to the objects' own borders."""

import numpy as np
import pytest
from PIL import Image

from unetkit.data.cases import read_case
from unetkit.data.datasets import open_dataset
from unetkit.data.instances import FULL, border_distance, encode_instances
from unetkit.data.labels import decode, encode
from unetkit.data.preprocess import preprocess
from unetkit.errors import DataError, RecipeError
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe import resolve
from unetkit.recipe.schema import DataSection
from unetkit.types import IGNORE, Labels, Volume, instance_numbers

CELLS = Labels(("cell",), ((1,),), instances=True)


def numbers() -> np.ndarray:
    """Three objects, two of which touch; their numbers need both bytes."""
    found = np.zeros((20, 30), np.uint16)
    found[3:12, 2:11], found[3:12, 11:20], found[14:19, 5:25] = 7, 300, 65534
    return found


def test_numbers_survive_encoding():
    encoded = encode(numbers(), CELLS, "here")
    assert (encoded.dtype, encoded.shape) == (np.uint8, (4, 20, 30))
    assert np.array_equal(encoded[0], numbers() > 0)
    assert np.array_equal(decode(encoded, CELLS), numbers())
    assert decode(encoded, CELLS).dtype == np.uint16
    # whatever moves voxels without mixing them moves the objects
    assert np.array_equal(instance_numbers(np.rot90(encoded, axes=(1, 2))[:, ::-1]), np.rot90(numbers())[::-1])


def test_ignored_values_are_ignored_in_every_layer():
    labels = Labels(("cell",), ((1,),), instances=True, ignore=(300,))
    encoded = encode(numbers(), labels, "here")
    assert (encoded[:, numbers() == 300] == IGNORE).all()
    assert not (instance_numbers(encoded) == 300).any()
    # a cell beside something unknown ends there
    assert encoded[1, 7, 10] < FULL / 3


def test_distance_by_hand():
    # squares of 9 that touch: from 1 at each one's own border to 5 at its centre
    distance = border_distance(numbers())
    assert distance[7, 2:20] == pytest.approx(np.array([1, 2, 3, 4, 5, 4, 3, 2, 1] * 2) / 5)
    assert distance[numbers() == 0].max() == 0
    assert distance[numbers() > 0].min() > 0
    # twice as thick rows: the other axis decides
    assert border_distance(numbers(), (2.0, 1.0))[3, 6] == pytest.approx(2 / 5)


def test_the_edge_of_the_image_is_no_border():
    half, whole = np.zeros((10, 9), int), np.ones((4, 5), int)
    half[:5] = 3
    assert border_distance(half)[:, 4] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0, 0])
    assert (border_distance(whole) == 1).all()


def test_distance_in_3d_and_of_nothing():
    ball = (np.indices((9, 9, 9)) - 4).__pow__(2).sum(0) <= 16
    distance = border_distance(ball.astype(int))
    assert np.unravel_index(distance.argmax(), ball.shape) == (4, 4, 4)
    assert distance[4, 4, 4] == 1
    assert border_distance(np.zeros((5, 5), int)).max() == 0


@pytest.mark.parametrize("value", [-1, 65535])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(DataError, match="0 to 65534 are possible: renumber the objects"):
        encode_instances(np.array([[0, value]]), (), "case a: a.png")


def test_one_word_makes_instances_of_label_files(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(numbers()).save(tmp_path / "labels/a.png")
    dataset = open_dataset(DataSection(root=str(tmp_path), instances=True, classes={"nucleus": 1}))
    assert dataset.labels == Labels(("nucleus",), ((1,),), instances=True)
    _, label = read_case(dataset.case("a"), dataset.labels)
    assert np.array_equal(instance_numbers(label.data), numbers())
    assert open_dataset(DataSection(root=str(tmp_path), instances=True)).labels.classes == ("object",)


def test_resampling_invents_no_number():
    image = Volume(np.zeros((1, 20, 30), np.float32), (1.0, 1.0))
    label = Volume(encode(numbers(), CELLS, "here"), (1.0, 1.0))
    plan = Plan((16, 16), 2, ("grey",), CELLS, (Normalization("none"),), spacing=(0.7, 0.6))
    found = instance_numbers(preprocess(image, label, plan).label)
    assert found.shape != (20, 30)
    assert set(np.unique(found)) == {0, 7, 300, 65534}


@pytest.mark.parametrize("other", ["data.regions=true", "data.threshold=3.0", "data.classes={a: 1, b: 2}"])
def test_contradictions_are_refused(other):
    with pytest.raises(RecipeError, match="instances are the numbered objects of one class"):
        resolve(["data.root=here", "data.instances=true", other])

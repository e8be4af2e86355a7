"""What is special of IAUNet: sizes, places, what its layers give, and maps of classes made of queries."""

import pytest
import torch

from unetkit.blocks.queries import Queries, semantic, sine_places
from unetkit.errors import ModelError
from unetkit.models.iaunet import with_places
from unetkit.registry import create_model

SMALL = {"encoder": "resnet18", "channels": 16, "queries": 5}


def test_every_layer_gives_queries_on_images_that_are_not_square() -> None:
    torch.manual_seed(0)
    model = create_model("iaunet", in_channels=1, num_classes=3, patch_size=(64, 96), decoder_layers=1, **SMALL).eval()
    image = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        found, logits = model.queries(image), model(image)
    assert [tuple(one.masks.shape) for one in found] == [(2, 5, 16, 24)] * 3
    assert found[-1].classes.shape == (2, 5, 3)  # two classes and "no object"
    assert found[-1].boxes.shape == (2, 5, 4)
    enlarged = torch.nn.functional.interpolate(semantic(found[-1], 3), size=(64, 96), mode="bilinear")
    torch.testing.assert_close(logits, enlarged)


def test_background_is_where_no_query_is() -> None:
    classes = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]])
    masks = torch.full((1, 3, 1, 4), -9.0)
    masks[0, 0, 0, 0] = masks[0, 1, 0, 1] = masks[0, 2, 0, 2] = 9.0  # the third query is no object
    chances = semantic(Queries(classes, masks, torch.zeros(1, 3, 4)), 3).softmax(1)
    assert chances.argmax(1).tolist() == [[[1, 2, 0, 0]]]
    # of one query it is p(class) sigmoid(mask)
    one = Queries(classes[:, :1], masks[:, :1], torch.zeros(1, 1, 4))
    expected = classes[0, 0].softmax(0)[0] * masks[0, 0, 0].sigmoid()
    torch.testing.assert_close(semantic(one, 3).softmax(1)[0, 1, 0], expected, rtol=1e-4, atol=1e-6)
    single = semantic(Queries(classes[..., 1:], masks, torch.zeros(1, 3, 4)), 1)
    torch.testing.assert_close(single, semantic(Queries(classes[..., 1:], masks, torch.zeros(1, 3, 4)), 2)[:, 1:])


def test_places_differ_along_their_own_axis_alone() -> None:
    places = sine_places(torch.Size((3, 4)), 8, torch.zeros(())).view(3, 4, 8)
    assert torch.equal(places[:, 0, :4], places[:, 3, :4])
    assert torch.equal(places[0, :, 4:], places[2, :, 4:])
    assert len({tuple(p) for p in places.flatten(0, 1).tolist()}) == 12
    right, down = with_places(torch.zeros(1, 1, 3, 4))[0, :2]
    assert torch.equal(right[0], torch.linspace(-1, 1, 4))
    assert torch.equal(down[:, 0], torch.linspace(-1, 1, 3))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ModelError, match="multiples of 8"):
        create_model("iaunet", in_channels=1, patch_size=(64, 64), channels=12)
    with pytest.raises(ModelError, match="maps at 1/4 to 1/32"):
        create_model("iaunet", in_channels=1, patch_size=(64, 64), encoder="efficientvit_m0")

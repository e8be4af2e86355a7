"""timm networks as encoders: maps, weights from files, refusals."""

from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from unetkit.blocks.encoders import TimmEncoder
from unetkit.errors import ModelError, ShapeError
from unetkit.registry import create_model

SMALL = "resnet10t"


@pytest.mark.parametrize(("name", "size"), [(SMALL, 64), ("tu-mobilenetv3_small_050", 64), ("convnext_atto", 64)])
def test_maps_have_the_channels_and_sizes_announced(name, size):
    encoder = TimmEncoder(name, 2).eval()
    maps = encoder(torch.zeros(1, 2, size, size))
    assert [m.shape[1] if m is not None else 0 for m in maps] == list(encoder.channels)
    assert all(m.shape[2] == size >> i for i, m in enumerate(maps) if m is not None)


@pytest.mark.parametrize("model", ["unet", "unetpp"])
@pytest.mark.parametrize("encoder", [SMALL, "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_networks_on_encoders(model, encoder):
    size = (224, 224) if "224" in encoder else (64, 32)
    network = create_model(
        model, in_channels=2, num_classes=3, patch_size=size, encoder=encoder, deep_supervision=True
    ).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 2, *size))
    assert outputs[0].shape == (1, 3, *size)
    assert all(a.shape[2] >= b.shape[2] for a, b in pairwise(outputs))


def test_weights_of_a_file_with_other_channels(tmp_path):
    source = timm.create_model(SMALL, num_classes=10)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    model = create_model("unetpp", in_channels=1, patch_size=(64, 64), encoder=SMALL, weights=weights)
    own = model.encoder.network.state_dict()
    stem = source.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(own["conv1.0.weight"], stem.sum(1, keepdim=True))
    torch.testing.assert_close(own["layer1.0.conv1.weight"], source.state_dict()["layer1.0.conv1.weight"])


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("convnext_atto").state_dict(), path)
    with pytest.raises(ModelError, match="tensors of encoder 'resnet10t' are not in it"):
        create_model("unetpp", patch_size=(64, 64), encoder=SMALL, weights=str(path))
    create_model("unetpp", patch_size=(64, 64), encoder="convnext_atto", weights=str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be had"):
        create_model("unetpp", patch_size=(64, 64), encoder=SMALL, weights=str(path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoder": "resnet10"}, ModelError, r"timm has no network 'resnet10' \(did you mean 'resnet10t'\?\)"),
        ({"encoder": SMALL, "weights": "missing.safetensors"}, ModelError, "no such .safetensors file"),
        ({"encoder": SMALL, "weights": "w.pth"}, ModelError, "no such .safetensors file"),
        ({"encoder": SMALL, "weights": "w", "pretrained": True}, ModelError, "contradict"),
        ({"encoder": SMALL, "widths": [8, 16]}, ModelError, "decides what widths would set"),
        ({"pretrained": True}, ModelError, "give encoder=NAME"),
        ({"encoder": SMALL, "patch_size": (32, 48)}, ShapeError, r"next legal size is \(32, 64\)"),
        ({"encoder": SMALL, "patch_size": (32, 32, 32)}, ModelError, "2D only"),
        ({"encoder": "vit_tiny_patch16_224", "patch_size": (224, 224)}, ModelError, "halve from one to the next"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message) as caught:
        create_model("unetpp", **{"patch_size": (64, 64), **options})
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", _offline)
    with pytest.raises(ModelError, match="give weights=PATH") as caught:
        create_model("unet", patch_size=(64, 64), encoder=SMALL, pretrained=True)
    assert "\n" not in str(caught.value)


def _offline(*args, **options):
    raise OSError("no connection\nand a second line")


@pytest.mark.parametrize(("name", "blocks"), [("efficientnet-b0", 1), ("timm-efficientnet-b0", 3)])
@torch.no_grad()
def test_efficientnets_of_segmentation_models_pytorch(name: str, blocks: int) -> None:
    """Their first map is the stem's; of the native b0 that at 1/16 comes after the first block of a stage of three."""
    encoder = TimmEncoder(name, 3).eval()
    assert encoder.channels == (0, 32, 24, 40, 112, 320)
    image = torch.randn(1, 3, 64, 64)
    _, first, *_, coarse, _ = encoder(image)
    network = encoder.network
    x = network.bn1(network.conv_stem(image))
    assert torch.equal(first, x)
    for stage in network.blocks[:4]:
        x = stage(x)
    assert torch.equal(coarse, network.blocks[4][:blocks](x))
    # nothing is left of one image for the next
    assert not torch.equal(encoder(image + 1)[1], first)


has_efficientvim = pytest.mark.skipif(not timm.is_model("efficientvim_m1"), reason="needs timm 1.0.31")


# Parameters and billions of operations of github:mlvlab/EfficientViM with its classifier, at its own sizes.
@has_efficientvim
@pytest.mark.parametrize(
    ("size", "params", "gflops", "side"),
    [
        ("m1", 6_679_458, 0.4728, 224),
        ("m2", 13_903_842, 0.7043, 224),
        ("m3", 16_604_174, 1.3034, 224),
        ("m4", 19_606_505, 2.21, 256),
    ],
)
def test_efficientvim_is_the_network_of_its_authors(size, params, gflops, side):
    with torch.device("meta"):
        network = timm.create_model(f"efficientvim_{size}").eval()
    assert sum(p.numel() for p in network.parameters()) == params
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, side, side, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, abs=5e-5)


@has_efficientvim
def test_efficientvim_is_an_encoder_down_to_a_64th():
    network = create_model(
        "unet", in_channels=1, num_classes=2, patch_size=(128, 128), encoder="efficientvim_m1"
    ).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 128, 128)).shape == (1, 2, 128, 128)

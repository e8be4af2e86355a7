"""What is special of 3D U-Net, R2U-Net, ResUNet++, U²-Net, MultiResUNet, RITnet and WU-Net."""

import pytest
import torch
from torch import nn

from unetkit.errors import ModelError, ShapeError
from unetkit.models.multiresunet import WIDTHS, branches
from unetkit.models.r2unet import RecurrentConv
from unetkit.registry import create_model

NARROW = (4, 6, 8)


def test_3d_unet_doubles_before_pooling_but_never_narrows_the_image() -> None:
    for channels, first in ((1, 32), (48, 48)):
        with torch.device("meta"):
            model = create_model("unet3d", in_channels=channels, patch_size=(8, 8, 8))
        convs = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
        assert [c.out_channels for c in convs[:4]] == [first, 64, 64, 128]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("variant", ["paper", "original", "wolny"])
def test_variants_of_3d_unet_keep_the_size(variant: str, dims: int) -> None:
    size = (8, 16, 12)[:dims]
    model = create_model("unet3d", patch_size=size, variant=variant, widths=NARROW).eval()
    assert model(torch.randn(1, 1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("t", [1, 2, 3])
def test_a_recurrent_convolution_is_called_once_more_than_it_comes_back(t: int) -> None:
    model = create_model("r2unet", patch_size=(8, 8), widths=NARROW, t=t).eval()
    calls: list[nn.Module] = []
    shared = [m.conv for m in model.modules() if isinstance(m, RecurrentConv)]
    for conv in shared:
        conv.register_forward_hook(lambda module, *_: calls.append(module))
    model(torch.randn(1, 1, 8, 8))
    assert {calls.count(conv) for conv in shared} == {t + 1}


def test_runet_is_r2unet_without_shortcuts() -> None:
    residual, plain = (create_model(name, patch_size=(8, 8), widths=NARROW).eval() for name in ("r2unet", "runet"))
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(plain(x), residual(x))
    for stack in (m for m in residual.modules() if hasattr(m, "residual")):
        stack.residual = False
    assert torch.equal(plain(x), residual(x))


@pytest.mark.parametrize("name", ["u2net", "u2net_small"])
def test_u2net_takes_any_size_and_fuses_its_side_outputs(name: str) -> None:
    options = {"shrink": 16} if name == "u2net" else {}
    model = create_model(name, num_classes=3, patch_size=(37, 50), deep_supervision=True, **options).eval()
    fused, *sides = model(torch.randn(1, 1, 37, 50))
    assert [side.shape for side in sides] == [(1, 3, 37, 50)] * 6
    torch.testing.assert_close(model.fuse(torch.cat(sides, 1)), fused)


def test_widths_of_multiresunet_are_cut_not_rounded() -> None:
    assert [sum(branches(w)) for w in WIDTHS] == [51, 105, 212, 426, 853]


def test_norms_of_multiresunet_have_a_scale_where_the_published_ones_do() -> None:
    with torch.device("meta"):
        keras, torch_ = (create_model("multiresunet", patch_size=(16, 16), variant=v) for v in ("keras", "torch"))
    bare = [sum(m.weight is None for m in x.modules() if isinstance(m, nn.BatchNorm2d)) for x in (keras, torch_)]
    convs = sum(isinstance(m, nn.Conv2d) for m in keras.modules())
    assert bare == [convs, 0]


def test_ritnet_pools_by_averages_and_drops_in_training_only() -> None:
    model = create_model("ritnet", patch_size=(16, 16), width=4)
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    x = torch.randn(2, 1, 16, 16)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_wunet_gives_its_features() -> None:
    model = create_model("wunet", num_classes=12, patch_size=(8, 8, 8), head="none").eval()
    features = model(torch.rand(1, 1, 8, 8, 8))
    assert features.shape == (1, 12, 8, 8, 8)
    assert features.min() >= 0


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("unet3d", {"variant": "origin"}, ModelError, r"did you mean 'original'"),
        ("unet3d", {"variant": "original", "deep_supervision": True}, ModelError, "drop one of them"),
        ("unet3d", {"patch_size": (20, 20, 20)}, ShapeError, r"next legal size is \(24, 24, 24\)"),
        ("r2unet", {"t": 0}, ModelError, "t=0: how often a map comes back; give 1 or more"),
        ("runet", {"atention": True}, ModelError, "runet"),
        ("resunetpp", {"widths": (8,)}, ModelError, "2 at least"),
        ("u2net", {"shrink": 17}, ModelError, "shrink=17 leaves stages without channels; give 1 to 16"),
        ("multiresunet", {"variant": "kears"}, ModelError, r"did you mean 'keras'"),
        ("ritnet", {"dropout": 2.0}, ModelError, "dropout"),
        ("wunet", {"widths": (4, 8, 16)}, ModelError, "give two widths, top and bottom"),
        ("wunet", {"head": "none"}, ModelError, "head=none gives 12 features, not 2; ask for 12 classes"),
        ("wunet", {"head": "part"}, ModelError, r"did you mean 'parts'"),
    ],
)
def test_refusals(name: str, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        create_model(name, **{"patch_size": (64, 64), **options})
    assert "\n" not in str(caught.value)

"""What is special in one network: variants, sub-networks, starting weights, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from unetkit.blocks.borders import mirror
from unetkit.errors import ModelError, ShapeError
from unetkit.models import attention_unet, resunet, unet, unetpp
from unetkit.registry import create_model

NARROW = (4, 6, 8, 10, 12)
VARIANTS = [
    (name, variant)
    for name, module in (("unet", unet), ("attention_unet", attention_unet), ("unetpp", unetpp), ("resunet", resunet))
    for variant in module.VARIANTS
]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_in_2d_and_3d(name, variant, dims):
    size = (32, 16, 16)[:dims]
    model = create_model(name, num_classes=3, patch_size=size, variant=variant, widths=NARROW).eval()
    assert model(torch.randn(1, 1, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("unet", {"variant": "bilnear"}, ModelError, r"variant='bilnear' \(did you mean 'bilinear'\?\): choose one of"),
        ("unet", {"variant": "original", "deep_supervision": True}, ModelError, "drop one of them"),
        ("unet", {"widths": (4,) * 8}, ShapeError, "sides must be at least 128"),
        ("unetpp", {"depth": 5}, ModelError, "5 widths allow 1 to 4"),
        ("unetpp", {"average": True, "deep_supervision": True}, ModelError, "drop one of them"),
        ("unetpp", {"variant": "nnunet", "patch_size": (16, 16)}, ShapeError, r"next legal size is \(32, 32\)"),
        ("resunet", {"variant": "monai", "deep_supervision": True}, ModelError, "drop one of them"),
        ("resunet", {"variant": "wolny", "patch_size": (24, 24)}, ShapeError, r"next legal size is \(32, 32\)"),
        ("attention_unet", {"variant": "oktay", "widths": (8,)}, ModelError, "at least 2 levels"),
        ("plain_unet", {"widths": (8, 16)}, ModelError, "give one of each per level"),
        ("plain_unet", {"patch_size": (70, 64)}, ShapeError, "next legal size is"),
        (
            "plain_unet",
            {"strides": [(1, 1, 1)]},
            ModelError,
            r"plain_unet cannot be built with strides=\[\(1, 1, 1\)\]: patch_size \(64, 64\) has 2 axes",
        ),
        ("unet", {"dropout": 1.5}, ModelError, r"unet cannot be built with dropout=1.5 \(dropout probability"),
    ],
)
def test_refusals(name, options, error, message):
    with pytest.raises(error, match=message):
        create_model(name, **{"patch_size": (64, 64), **options})


@pytest.mark.parametrize(
    ("name", "options", "size", "wrong", "message"),
    [
        ("resunet", {"variant": "wolny"}, 32, 24, r"next legal size is \(32, 32\)"),
        ("resunet", {"variant": "monai"}, 32, 24, r"next legal size is \(32, 32\)"),
        ("unet", {"widths": (4,) * 7}, 64, 32, "at least 64"),
        ("attention_unet", {"widths": (4,) * 7}, 64, 32, "multiples of 64"),
        ("swin_unet", {"embed_dim": 4, "depths": (1,) * 5, "heads": (1,) * 5}, 64, 96, "multiples of 64"),
    ],
)
def test_inputs_that_only_the_options_forbid_are_refused(name, options, size, wrong, message):
    """More levels than the default's demand more than ModelInfo says."""
    model = create_model(name, patch_size=(size, size), **options).eval()
    with pytest.raises(ShapeError, match=message):
        model(torch.zeros(1, 1, wrong, wrong))
    with pytest.raises(ShapeError, match="expected"):
        model(torch.zeros(1, wrong, wrong))


@pytest.mark.parametrize("size", [(17, 40), (16, 18, 20)])
def test_original_unet_keeps_the_size_by_mirroring(size):
    model = create_model("unet", patch_size=size, variant="original", widths=(2, 3)).eval()
    assert model(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_mirror_continues_as_numpy_does():
    x = torch.arange(4.0).view(1, 1, 4, 1)
    got = mirror(x, 7, 9, axis=2).flatten()
    want = torch.from_numpy(np.pad(x.flatten().numpy(), (7, 9), mode="reflect"))
    assert torch.equal(got, want)


def test_original_unet_at_a_size_it_has_in_the_paper():
    """Where the mirrored border is real image, the network sees what the paper's sees: 572 in, 388 out."""
    model = create_model("unet", patch_size=(388, 388), variant="original", widths=(1, 1, 1, 1, 1)).eval()
    assert model.network(torch.randn(1, 1, 572, 572)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_pruned_unetpp_is_a_column_of_the_whole(depth):
    options = {"patch_size": (16, 16), "widths": NARROW, "deep_supervision": True}
    whole = create_model("unetpp", **options).eval()
    part = create_model("unetpp", **options, depth=depth).eval()
    weights = whole.state_dict()
    for key in part.state_dict():
        if key.startswith("heads.convs."):  # heads come last column first
            column = int(key.split(".")[2]) + 4 - depth
            weights[key] = whole.state_dict()[f"heads.convs.{column}.{key.rpartition('.')[2]}"]
    part.load_state_dict({key: weights[key] for key in part.state_dict()})
    x = torch.randn(1, 1, 16, 16)
    for got, want in zip(part(x), whole(x)[4 - depth :], strict=True):
        torch.testing.assert_close(got, want)


def test_average_of_unetpp():
    options = {"patch_size": (16, 16), "widths": NARROW}
    average = create_model("unetpp", **options, average=True).eval()
    apart = create_model("unetpp", **options, deep_supervision=True).eval()
    apart.load_state_dict(average.state_dict())
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(average(x), torch.stack(apart(x)).mean(0))


def test_nnunet_sizes_follow_from_the_patch():
    model = create_model("plain_unet", patch_size=(40, 56, 40))
    assert model.encoder.channels == (32, 64, 128, 256)
    assert model.divisor == (8, 8, 8)
    assert create_model("plain_unet", patch_size=(512, 512)).encoder.channels[-1] == 512


def test_nnunet_takes_a_plan():
    options = {"widths": [4, 8, 8], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]], "kernels": [[1, 3, 3], 3, 3]}
    model = create_model("resenc_unet", patch_size=(6, 16, 20), blocks=[1, 2, 2], **options).eval()
    assert model(torch.randn(1, 1, 6, 16, 20)).shape == (1, 2, 6, 16, 20)
    with pytest.raises(ShapeError, match=r"next legal size is \(8, 16, 20\)"):
        model(torch.randn(1, 1, 7, 16, 20))
    stem = model.encoder.stages[0][0][0][0]
    assert stem.kernel_size == (1, 3, 3)


def test_residual_blocks_start_as_their_shortcut():
    model = create_model("resenc_unet", patch_size=(16, 16))
    lasts = [m.second[1] for m in model.modules() if type(m).__name__ == "ResidualBlockD"]
    assert len(lasts) == 1 + 3 + 4
    assert all(not norm.weight.any() and not norm.bias.any() for norm in lasts)


def test_nnunet_starts_from_he_weights():
    """Standard deviation sqrt(2 / (1 + a^2) / fan_in) with a = 0.01, and no bias."""
    convs = [m for m in create_model("plain_unet", patch_size=(64, 64)).modules() if isinstance(m, nn.Conv2d)]
    wide = max(convs, key=lambda c: c.weight.numel())
    fan_in = wide.weight[0].numel()
    assert wide.weight.std().item() == pytest.approx((2 / 1.0001 / fan_in) ** 0.5, rel=0.02)
    assert not any(c.bias.any() for c in convs)


def test_oktay_returns_lower_heads_beside_the_mixed_one():
    model = create_model("attention_unet", patch_size=(16, 16, 16), deep_supervision=True, widths=NARROW).eval()
    assert [o.shape[2] for o in model(torch.randn(1, 1, 16, 16, 16))] == [16, 8, 4, 2]

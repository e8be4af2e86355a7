"""What is special of STU-Net, MedNeXt, neU-Net and MBDRes-U-Net: starting weights, wavelets, refusals."""

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unetkit.blocks.layers import Layers
from unetkit.blocks.rearrange import haar
from unetkit.checkpoint import transfer_weights
from unetkit.errors import ModelError
from unetkit.models._mednext import MedNeXtBlock
from unetkit.models.neunet import SubPixelUp
from unetkit.models.stunet import load_stunet
from unetkit.registry import create_model

SIZE = (32, 32)


def mednext(kernel: int, **options) -> torch.nn.Module:
    torch.manual_seed(kernel)
    return create_model("mednext_s", patch_size=SIZE, kernel=kernel, **options).eval()


def test_upkern_enlarges_depthwise_kernels_and_copies_the_rest(tmp_path: Path) -> None:
    small, file = mednext(3), tmp_path / "small.safetensors"
    save_file(small.state_dict(), file)
    large = mednext(5, weights=str(file))
    old, new = small.state_dict(), large.state_dict()
    wide = {name for name in old if old[name].shape != new[name].shape}
    assert wide
    assert all(name.endswith("depthwise.weight") for name in wide)
    assert all(torch.equal(old[name], new[name]) for name in old.keys() - wide)
    for name in wide:
        # linear with the borders of pixels in line: middle and corners are the old ones
        torch.testing.assert_close(new[name][..., ::2, ::2], old[name])


def test_upkern_keeps_a_constant_kernel_constant() -> None:
    small, large = mednext(3), mednext(5)
    state = {name: torch.ones_like(value) for name, value in small.state_dict().items()}
    assert transfer_weights(large, state) == []
    assert all((value == 1).all() for value in large.state_dict().values())


def test_a_run_with_kernels_of_5_starts_one_with_3() -> None:
    large, small = mednext(5), mednext(3)
    assert transfer_weights(small, large.state_dict()) == []
    name = "encoder.stages.0.0.0.depthwise.weight"
    assert torch.equal(small.state_dict()[name][..., 1, 1], large.state_dict()[name][..., 2, 2])


def test_blocks_that_save_memory_have_the_same_gradients() -> None:
    x, gradients = torch.randn(1, 4, 6, 6), []
    for saves in (False, True):
        torch.manual_seed(0)
        block = MedNeXtBlock(Layers(2), 4, 8, 2, kernel=3, ratio=2, save_memory=saves)
        block(x).square().mean().backward()
        gradients.append([p.grad for p in block.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (1, 1, 1)])
def test_haar_bands_are_orthonormal_and_begin_with_the_average(stride: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, 4, 6, 8, dtype=torch.float64)
    bands = haar(x, stride)
    count = 2 ** sum(step == 2 for step in stride)
    assert bands.shape == (2, 3 * count, *(n // s for n, s in zip(x.shape[2:], stride, strict=True)))
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    mean = torch.nn.functional.avg_pool3d(x, stride, stride)
    torch.testing.assert_close(bands[:, :3], mean * count**0.5)


def test_sub_pixel_places_follow_pytorch_where_it_has_them() -> None:
    up = SubPixelUp(Layers(2), 4, 2, (2, 2))
    x = torch.randn(1, 4, 3, 5)
    fine = up.second(up.first(x).tanh()).tanh()
    assert torch.equal(up(x), torch.nn.functional.pixel_shuffle(fine, 2))


def test_sub_pixel_places_of_a_volume() -> None:
    """A channel number that counts the place: channel, then axis by axis."""
    up = SubPixelUp(Layers(3), 1, 2, (1, 2, 2))
    up.first, up.second = torch.nn.Identity(), torch.nn.Identity()
    numbers = torch.linspace(-0.7, 0.7, 8)
    got = up(numbers.view(1, 8, 1, 1, 1))
    want = numbers.tanh().tanh().view(2, 1, 2, 2)
    for channel, row, column in product(range(2), range(2), range(2)):
        assert got[0, channel, 0, row, column] == want[channel, 0, row, column]


def test_stunet_takes_released_names() -> None:
    model = create_model("stunet_s", patch_size=SIZE)
    state = {"conv_blocks_context.0.0.conv1.weight": torch.ones(16, 1, 3, 3), "seg_outputs.4.bias": torch.ones(2)}
    assert load_stunet(model, state) == 2
    assert (model.encoder.stages[0][0][0].first[0].weight == 1).all()
    assert (model.heads.convs[0].bias == 1).all()


@pytest.mark.parametrize(("given", "used"), [([1, 2], [1, 2, 1, 1, 1, 1]), ([1] + [2] * 6, [1] + [2] * 5)])
def test_stunet_has_six_levels_whatever_the_plan(given: list[int], used: list[int]) -> None:
    with torch.device("meta"):
        model = create_model("stunet_s", patch_size=(128, 128), strides=given)
    assert [axis for axis, _ in model.encoder.strides] == used


def test_mbresunet_is_the_network_without_dilations() -> None:
    sizes = {"patch_size": SIZE, "width": 16, "channels": 32, "groups": 4}
    with torch.device("meta"):
        dilated, plain = (create_model("mbdresunet", dilated=flag, **sizes) for flag in (True, False))
    convs = [{m.dilation for m in net.modules() if hasattr(m, "dilation")} for net in (dilated, plain)]
    assert convs == [{(1, 1), (2, 2), (3, 3)}, {(1, 1)}]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mednext_s", {"kernel": 4}, "^kernel=4: choose one of 3, 5$"),
        ("neunet", {"strides": [1, 3]}, r"a Haar transform halves or keeps an axis; give 1 or 2$"),
        ("mbdresunet", {"groups": 5}, "groups=5 must divide a quarter of width=32 and of channels=128"),
        ("mbdresunet", {"groups": 0}, "groups=0 must divide"),
        ("stunet_s", {"weights": "nowhere.npz"}, "there is no such file"),
        ("mednext_s", {"weights": "nowhere.pth"}, "give a .safetensors or .npz file"),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_model(name, patch_size=(96, 96), **options)

"""The network for inference computes what the trained one does."""

import pytest
import torch
from torch import nn

from unetkit.blocks.inference import optimise_for_inference
from unetkit.registry import create_model


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
def test_same_results_and_names_with_group_norm(size):
    model = create_model("resenc_unet", patch_size=size)
    nn.init.normal_(model.encoder.stages[0][0][1][0].second[1].weight)
    fast = optimise_for_inference(model, "cpu")
    x = torch.randn(2, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert not any(isinstance(m, nn.InstanceNorm2d | nn.InstanceNorm3d) for m in fast.modules())
    assert any(isinstance(m, nn.InstanceNorm2d | nn.InstanceNorm3d) for m in model.modules())


def test_weights_are_shared():
    model = create_model("plain_unet", patch_size=(16, 16))
    fast = optimise_for_inference(model, "cpu")
    assert {p.data_ptr() for p in fast.parameters()} == {p.data_ptr() for p in model.parameters()}


def test_without_affine_weights():
    model = nn.Sequential(nn.InstanceNorm2d(16))
    x = torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(optimise_for_inference(model, "cpu")(x), model(x), rtol=1e-4, atol=1e-5)


def test_few_channels_and_other_devices_keep_instance_norm():
    narrow, wide = nn.Sequential(nn.InstanceNorm3d(8)), nn.Sequential(nn.InstanceNorm3d(32))
    assert isinstance(optimise_for_inference(narrow, "cpu")[0], nn.InstanceNorm3d)
    assert isinstance(optimise_for_inference(wide, "meta")[0], nn.InstanceNorm3d)

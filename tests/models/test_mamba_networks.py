"""Mamba U-Nets: where the weights end and the map begins, published weights, and halves."""

import pytest
import torch

from unetkit.blocks.layers import Layers
from unetkit.blocks.mamba import Mamba, TriMamba
from unetkit.blocks.vss import CrossScan
from unetkit.errors import ShapeError
from unetkit.models._vss_weights import load_vmamba
from unetkit.models.vm_unet import load_vm_unet
from unetkit.registry import create_model

SMALL = {"widths": [4, 8, 16], "strides": [1, 2, 2]}


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, in_channels=1, num_classes=2, patch_size=(16, 16), **SMALL, **options).eval()


def test_umamba_enc_takes_any_size_unless_as_published():
    x = torch.randn(1, 1, 32, 16)
    assert small("umamba_enc")(x).shape == (1, 2, 32, 16)
    with pytest.raises(ShapeError, match="built for"):
        small("umamba_enc", as_published=True)(x)


def test_umamba_enc_as_published_has_weights_of_the_size_of_the_map():
    swapped = small("umamba_enc", as_published=True, kernels=[3, 3, 3])
    # 16 voxels in the deepest map of 16 channels: channels are the tokens, as wide as the map
    assert swapped.encoder.stages[-1][0][-1].channel_tokens
    assert not small("umamba_enc").encoder.stages[-1][0][-1].channel_tokens


def test_slices_of_segmamba_follow_the_map():
    torch.manual_seed(0)
    layer = TriMamba(4)
    fixed = TriMamba(4, slices=2)
    fixed.load_state_dict(layer.state_dict())
    tokens = torch.randn(1, 8, 4)
    torch.testing.assert_close(layer(tokens, (2, 4)), fixed(tokens, (4, 2)))
    with pytest.raises(ShapeError, match="slices"):
        TriMamba(4, slices=3)(tokens, (2, 4))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_scan_and_its_inputs_stay_in_fp32(half):
    torch.manual_seed(0)
    layer, tokens = Mamba(8), torch.randn(1, 64, 8)
    with torch.autocast("cpu", half):
        found = layer(tokens)
    assert found.dtype == half
    found.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert layer.walk(tokens.new_ones(1, 16, 4).to(half), tokens.new_ones(1, 16, 4).to(half)).dtype == torch.float32


def test_decays_of_scans_are_never_decayed():
    for layer in (Mamba(8), CrossScan(Layers(2), 8)):
        marked = {name for name, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
        assert marked >= {"A_log", "D"} or marked >= {"A_logs", "Ds"}


def vm_unet():
    return create_model(
        "vm_unet", in_channels=3, patch_size=(32, 32), width=16, depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1)
    )


def published(encoder):
    """The tensors of an encoder under the keys of VMamba."""
    return {key.replace(".conv.", ".conv2d."): value + 1 for key, value in encoder.state_dict().items()}


def test_weights_of_vmamba_go_into_encoder_and_decoder():
    model = vm_unet()
    state = published(model.encoder)
    assert load_vm_unet(model, state) > len(state)
    key = "blocks.0.self_attention.A_logs"
    for part in (model.encoder.layers[1], model.layers_up[2]):
        assert torch.equal(part.state_dict()[key], state[f"layers.1.{key}"])


def test_weights_of_vmamba_go_into_swin_umamba_without_the_stem():
    model = create_model("swin_umamba", patch_size=(32, 32), width=16, depths=(1, 1, 1, 1))
    state = published(model.vssm_encoder)
    stem = model.vssm_encoder.patch_embed.proj.weight.clone()
    assert load_vmamba(model.vssm_encoder, state, stem=False) == len(state) - 4
    assert torch.equal(model.vssm_encoder.patch_embed.proj.weight, stem)

"""TransUNet: weights under Google's, timm's and the reference's names end in the right places and layouts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor

from unetkit.errors import ModelError
from unetkit.models._vit_weights import zoom_positions
from unetkit.registry import create_model

SMALL: dict[str, Any] = {"resnet_units": (1, 2, 1), "hidden": 24, "mlp": 40, "heads": 3, "layers": 2}
UNIT = "encoder.resnet.body.{}.{}."


def small(**options: Any) -> torch.nn.Module:
    """Return a small TransUNet for 64 x 64 images of 3 channels."""
    return create_model("transunet", in_channels=3, patch_size=(64, 64), **SMALL, **options)


def flax(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return an encoder's tensors with the names and layouts that Google's files have."""

    def put(name: str, own: str, shape: tuple[int, ...] = (-1,)) -> None:
        tensor = state[own]
        if tensor.ndim == 4:
            tensor = tensor.permute(2, 3, 1, 0)
        elif tensor.ndim == 2:
            tensor = tensor.t().reshape(shape)
        else:
            tensor = tensor.reshape(shape) if name.endswith("bias") else tensor
        found[name] = tensor.numpy()

    found: dict[str, np.ndarray] = {}
    own = "encoder.resnet."
    put("conv_root/kernel", f"{own}conv.weight")
    put("gn_root/scale", f"{own}gn.weight")
    put("gn_root/bias", f"{own}gn.bias")
    for block, count in enumerate(SMALL["resnet_units"]):
        for unit in range(count):
            there, here = f"block{block + 1}/unit{unit + 1}/", UNIT.format(block, unit)
            for i in (1, 2, 3):
                put(f"{there}conv{i}/kernel", f"{here}conv{i}.weight")
                put(f"{there}gn{i}/scale", f"{here}gn{i}.weight")
                put(f"{there}gn{i}/bias", f"{here}gn{i}.bias")
            if unit == 0:
                put(f"{there}conv_proj/kernel", f"{here}projection.0.weight")
                put(f"{there}gn_proj/scale", f"{here}projection.1.weight")
                put(f"{there}gn_proj/bias", f"{here}projection.1.bias")
    put("embedding/kernel", "encoder.embed.weight")
    put("embedding/bias", "encoder.embed.bias")
    for layer in range(SMALL["layers"]):
        there, here = f"Transformer/encoderblock_{layer}/", f"encoder.blocks.{layer}."
        for name, shape in (("query", (24, 3, 8)), ("key", (24, 3, 8)), ("value", (24, 3, 8)), ("out", (3, 8, 24))):
            put(f"{there}MultiHeadDotProductAttention_1/{name}/kernel", f"{here}attn.{name}.weight", shape)
            bias = (24,) if name == "out" else (3, 8)
            put(f"{there}MultiHeadDotProductAttention_1/{name}/bias", f"{here}attn.{name}.bias", bias)
        for i in (0, 1):
            put(f"{there}MlpBlock_3/Dense_{i}/kernel", f"{here}mlp.fc{i + 1}.weight", (24, 40) if i == 0 else (40, 24))
            put(f"{there}MlpBlock_3/Dense_{i}/bias", f"{here}mlp.fc{i + 1}.bias")
            put(f"{there}LayerNorm_{2 * i}/scale", f"{here}norm{i + 1}.weight")
            put(f"{there}LayerNorm_{2 * i}/bias", f"{here}norm{i + 1}.bias")
    put("Transformer/encoder_norm/scale", "encoder.norm.weight")
    put("Transformer/encoder_norm/bias", "encoder.norm.bias")
    positions = state["encoder.position_embeddings"]
    found["Transformer/posembed_input/pos_embedding"] = torch.cat([torch.ones(1, 1, 24), positions], 1).numpy()
    return found


def test_weights_of_google_fill_the_whole_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = small()
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor))
    np.savez(tmp_path / "vit.npz", **flax(source.state_dict()))
    model = small(weights=str(tmp_path / "vit.npz"))
    wanted, got = source.encoder.state_dict(), model.encoder.state_dict()
    assert [key for key in wanted if not torch.equal(wanted[key], got[key])] == []


def test_encoder_with_weights_of_timm_equals_timm(tmp_path: Path) -> None:
    """Of the transformer alone: timm pads its convolutions otherwise, so the ResNet is checked by the weights taken."""
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    vit = timm.create_model("vit_base_r50_s16_224", **options).eval()
    torch.nn.init.normal_(vit.pos_embed)
    vit.patch_embed.backbone.stem.norm.weight.data.fill_(3.0)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    sizes = {**SMALL, "resnet_units": (3, 4, 9), "mlp": 96}
    path = str(tmp_path / "vit.safetensors")
    model = create_model("transunet", in_channels=3, patch_size=(224, 224), weights=path, **sizes).eval()
    assert (model.encoder.resnet.gn.weight == 3).all()
    last = vit.patch_embed.backbone.stages[2].blocks[8].conv3.weight
    assert torch.equal(model.encoder.resnet.body[2][8].conv3.weight, last)
    torch.testing.assert_close(model.encoder.position_embeddings, vit.pos_embed[:, 1:])
    ours = theirs = torch.randn(2, 196, 24)
    with torch.no_grad():
        for block, other in zip(model.encoder.blocks, vit.blocks, strict=True):
            ours, theirs = block(ours), other(theirs)
    torch.testing.assert_close(model.encoder.norm(ours), vit.norm(theirs))


def test_its_own_weights_load_for_another_size(tmp_path: Path) -> None:
    source = small()
    torch.nn.init.normal_(source.encoder.position_embeddings)
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    path = str(tmp_path / "own.safetensors")
    model = create_model("transunet", in_channels=3, patch_size=(96, 64), weights=path, **SMALL).eval()
    assert torch.equal(model.head.weight, source.head.weight)
    corners = model.encoder.position_embeddings[0].unflatten(0, (6, 4))[::5, ::3]
    wanted = source.encoder.position_embeddings[0].unflatten(0, (4, 4))[::3, ::3]
    torch.testing.assert_close(corners, wanted)
    assert model(torch.randn(2, 3, 96, 64)).shape == (2, 2, 96, 64)


def test_positions_are_zoomed_as_scipy_does() -> None:
    positions = torch.randn(1, 1 + 49, 5)
    wanted = ndimage.zoom(positions[0, 1:].reshape(7, 7, 5).numpy(), (10 / 7, 4 / 7, 1), order=1)
    got = zoom_positions(positions, (10, 4))[0].reshape(10, 4, 5)
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resnet_units": ()}, r"n_skip=3, but an encoder with resnet_units \(\) has 0"),
        ({"resnet_units": (3, 4)}, "give three numbers"),
        ({"heads": 7}, "hidden=768 does not divide into 7 heads"),
        ({"decoder_channels": (64, 16)}, "give four"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_model("transunet", patch_size=(64, 64), **options)

"""Every network with a recurrent operator in half precision: a step on loud images leaves only finite numbers."""

import pytest
import timm
import torch
import torch.nn.functional as F

from unetkit.registry import create_model

VSS = {"width": 8, "depths": (1, 1, 1, 1)}
STAGES = {"widths": [4, 8, 16], "strides": [1, 2, 2]}
NETWORKS = {
    "umamba_bot": (2, 16, STAGES),
    "umamba_enc": (2, 16, STAGES),
    "segmamba": (3, 32, {"widths": (4, 8, 8, 8), "depths": (1, 1, 1, 1), "hidden": 8}),
    "vm_unet": (2, 32, VSS | {"decoder_depths": (1, 1, 1, 1)}),
    "swin_umamba": (2, 32, VSS),
    "swin_umamba_d": (2, 32, VSS),
    "lightm_unet": (3, 16, {"width": 4}),
    "xlstm_unet_bot": (2, 16, STAGES),
    "xlstm_unet_enc": (2, 16, STAGES),
    "vilu_net": (2, 16, STAGES),
    "rwkv_unet_t": (2, 32, {}),
    "unet": (2, 64, {"encoder": "efficientvim_m1"}),
    "u_rwkv": (2, 32, {"widths": (8, 12, 16, 16, 16)}),
}
"""Network -> axes, side of the image, and options that make it small."""


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_in_half_precision_stays_finite(name: str, half: torch.dtype) -> None:
    if name == "unet" and not timm.is_model("efficientvim_m1"):
        pytest.skip("needs timm 1.0.31")
    torch.manual_seed(0)
    dims, side, options = NETWORKS[name]
    size = (side,) * dims
    channels = 3 if name == "rwkv_unet_t" else 1
    network = create_model(name, in_channels=channels, num_classes=2, patch_size=size, **options).train()
    image = 10 * torch.randn(2, channels, *size)
    with torch.autocast("cpu", half):
        logits = network(image)
    loss = F.cross_entropy(logits.float(), torch.randint(0, 2, (2, *size)))
    loss.backward()
    assert loss.isfinite()
    reached = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    assert len(reached) > 20
    assert not [key for key, grad in reached.items() if not grad.isfinite().all()]

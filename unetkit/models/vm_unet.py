"""VM-UNet: a U-Net of cross scans alone (arXiv:2402.02491)."""

from collections.abc import Sequence

from torch import Tensor, nn

from unetkit.blocks.checks import check_levels, check_rate
from unetkit.blocks.init import linear_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.patches import PatchExpand
from unetkit.blocks.swin import PATCH, stem_channels
from unetkit.blocks.vss import VssEncoder, VssStage, falling
from unetkit.models._pretrained import load_matching, rename, source_weights
from unetkit.models._vss_weights import TO_OURS
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


class VmUnet(nn.Module):
    """Encoder and decoder of cross scans; skips are what enters a stage, and are added before the decoder enlarges.

    `depths_up` are deepest first. An image of one channel is repeated where `stem_channels` is 3.
    """

    def __init__(
        self, layers: Layers, encoder: VssEncoder, channels: tuple[int, int], depths_up: Sequence[int], drop_path: float
    ) -> None:
        super().__init__()
        self.stem_channels, num_classes = channels
        self.encoder = encoder
        widths = encoder.channels[::-1]
        steps = [PatchExpand(layers.dims, 2 * width, width, 2) for width in widths[1:]]
        self.layers_up = nn.ModuleList(
            VssStage(layers, width, rates, upsample=step)
            for width, rates, step in zip(widths, falling(drop_path, depths_up), [None, *steps], strict=True)
        )
        last = widths[-1] // PATCH
        self.final_up = PatchExpand(layers.dims, widths[-1], last, PATCH)
        self.final_conv = layers.conv(last, num_classes, 1)
        linear_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        skips, left = self.encoder(x.expand(-1, self.stem_channels, *x.shape[2:]))
        deepest, *above = self.layers_up
        x = deepest(left[-1])
        # the finest skip is left over: the decoder ends at that resolution
        for stage, skip in zip(above, reversed(skips[1:]), strict=True):
            x = stage(x + skip)
        return self.final_conv(self.final_up(x).movedim(-1, 1))


@register(
    ModelInfo(
        title="VM-UNet",
        family="ssm",
        year=2024,
        paper="2402.02491",
        dims=(2, 3),
        multiple=32,
        multiple_by={"depths": 4},
        source=("github:JCruan519/VM-UNet", "43c495b", "Apache-2.0"),
        params={2: 27427761},
        params_at={2: (3, 9, (224, 224))},
        gflops={2: 10.4},
        activation_mb={2: 302.9},
        notes="Depths are those of the published settings, not the defaults of the class. One channel is repeated to "
        "three and the finest skip is left out, as in the reference; of one class it gives probabilities, here logits. "
        "3D, with scans along three axes both ways, is our extension.",
    )
)
def vm_unet(
    task: TaskShape,
    *,
    width: int = 96,
    depths: Sequence[int] = (2, 2, 2, 2),
    decoder_depths: Sequence[int] = (2, 2, 2, 1),
    drop_path: float = 0.2,
    weights: str | None = None,
) -> nn.Module:
    """Build VM-UNet: `depths` blocks per level, finest first, and `decoder_depths`, deepest first.

    `drop_path` is the rate of the deepest blocks. `weights` is a .safetensors or .npz file of VM-UNet or of VMamba.
    Raises ModelError if the options contradict each other.
    """
    check_levels(depths=depths, decoder_depths=decoder_depths)
    check_rate(drop_path)
    layers, stem = Layers(task.dims), stem_channels(task)
    encoder = VssEncoder(layers, stem, width, depths, patch=PATCH, drop_path=drop_path)
    model = VmUnet(layers, encoder, (stem, task.num_classes), decoder_depths, drop_path)
    state = source_weights(weights)
    if state is not None:
        load_vm_unet(model, state)
    return model


def load_vm_unet(model: VmUnet, state: dict[str, Tensor]) -> int:
    """Load weights of VM-UNet, or those of VMamba into encoder and decoder; return how many tensors were taken.

    As in the reference, stage i of n of VMamba also initialises the decoder stage n - 1 - i. Raises ModelError if
    nothing fits.
    """
    state = rename(state, TO_OURS)
    if not any(key.startswith("layers_up.") for key in state):
        last = len(model.layers_up) - 1
        for i in range(last + 1):
            own = {key: value for key, value in state.items() if key.startswith(f"layers.{i}.blocks.")}
            state |= rename(own, [(r"^layers\.\d+", f"layers_up.{last - i}")])
    return load_matching(model, rename(state, [(r"^(layers\.|patch_embed\.)", r"encoder.\1")]))

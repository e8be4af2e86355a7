"""SAM-UNet: a frozen ViT of Segment Anything beside a ResNet, and a decoder of masks that sees all of its depths.

arXiv:2408.09886. The maps of the ResNet enter the ViT before each block of global attention.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.encoders import TimmEncoder
from unetkit.blocks.layers import ChannelNorm, Layers
from unetkit.blocks.prompts import PromptEncoder, TwoWayTransformer
from unetkit.errors import ModelError
from unetkit.models._pretrained import load_matching, source_weights
from unetkit.models._sam_weights import sam_weights
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

PATCH = 16
CHANNELS = 256
FINE = CHANNELS // 8
HEAD = 64
FLAT = Layers(2)
VITS = {name: f"{name}.sa1b" for name in ("samvit_base_patch16", "samvit_large_patch16", "samvit_huge_patch16")}
"""The networks of timm that may be the frozen encoder, and the tags of their weights."""
RESNETS = {name: name for name in ("resnet34", "resnet50")}


def enlarged(channels: int, hidden: int) -> nn.Sequential:
    """Return layers that map [B, channels, h, w] to [B, FINE, 4 h, 4 w]."""
    norm = ChannelNorm(hidden, eps=1e-6)
    return nn.Sequential(FLAT.transposed(channels, hidden), norm, nn.GELU(), FLAT.transposed(hidden, FINE))


def reshaped(level: int, channels: int, out_channels: int) -> nn.Sequential:
    """Return layers that bring level 0, 1, ... of a ResNet (at 1/4, 1/8, ...) to patches of 16 pixels."""
    steps: list[nn.Module] = []
    for _ in range(abs(2 - level)):
        width = channels * 2 if level < 2 else channels // 2
        conv = FLAT.conv(channels, width, stride=2) if level < 2 else FLAT.transposed(channels, width)
        steps += [conv, ChannelNorm(width, eps=1e-6), nn.GELU()]
        channels = width
    layers = nn.Sequential(*steps, FLAT.conv(channels, out_channels, 1))
    for key, parameter in layers.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        elif key.endswith("bias"):
            nn.init.zeros_(parameter)
    return layers


class SamEncoder(nn.Module):
    """A SAM ViT, to whose tokens the maps of a ResNet are added before each of its blocks that see the whole image."""

    def __init__(self, vit: Any, resnet: TimmEncoder) -> None:
        super().__init__()
        self.vit, self.resnet = vit, resnet
        levels = enumerate(resnet.channels[-4:])
        self.inward = nn.ModuleList(reshaped(i, width, vit.embed_dim) for i, width in levels)
        # of the ViT after all but the last of these blocks
        self.outward = nn.ModuleList(enlarged(vit.embed_dim, CHANNELS) for _ in range(3))
        self.deepest = enlarged(CHANNELS, CHANNELS // 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, H, W] to [B, CHANNELS, H / 16, W / 16] and to what all depths say, [B, FINE, H / 4, W / 4]."""
        maps = list(self.resnet(x))[-4:]
        tokens = self.vit.patch_embed(x) + self.vit.pos_embed  # [B, h, w, C]
        depths: list[Tensor] = []
        for block in self.vit.blocks:
            if block.window_size == 0:
                level = len(depths)
                tokens = tokens + self.inward[level](maps[level]).movedim(1, -1)
                depths.append(tokens := block(tokens))
            else:
                tokens = block(tokens)
        found = self.vit.neck(tokens.movedim(-1, 1))
        outward = zip(self.outward, depths, strict=False)  # the last depth has gone through the neck instead
        return found, self.deepest(found) + sum(layers(depth.movedim(-1, 1)) for layers, depth in outward)


class MaskDecoder(nn.Module):
    """A learned token per class, which looks at the map together with the prompts and then weighs its channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(CHANNELS)
        self.enlarge = nn.Sequential(*enlarged(CHANNELS, CHANNELS // 4), nn.GELU())
        self.tokens = nn.Embedding(num_classes, CHANNELS)
        hidden = (nn.Linear(CHANNELS, CHANNELS), nn.ReLU())
        self.weigh = nn.Sequential(*hidden, nn.Linear(CHANNELS, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, FINE))
        self.refine = nn.Sequential(
            FLAT.conv(FINE, 2 * FINE), ChannelNorm(2 * FINE, eps=1e-6), nn.GELU(), FLAT.conv(2 * FINE, FINE)
        )

    def forward(self, x: Tensor, places: Tensor, prompts: Tensor, fine: Tensor) -> Tensor:
        """Map [B, CHANNELS, h, w], codes of its places, prompts [B, N, CHANNELS] and [B, FINE, 4 h, 4 w] to logits."""
        own = self.tokens.weight.expand(len(x), -1, -1)
        tokens, x = self.transformer(x, places, torch.cat([own, prompts], 1))
        fine = self.refine(self.enlarge(x)) + fine
        weights = self.weigh(tokens[:, : own.shape[1]])
        return (weights @ fine.flatten(2)).unflatten(2, fine.shape[2:])


class SamUnet(nn.Module):
    """Encoder, prompts, decoder; logits of a quarter of the resolution are enlarged."""

    def __init__(self, encoder: SamEncoder, prompts: PromptEncoder, decoder: MaskDecoder) -> None:
        super().__init__()
        self.encoder, self.prompts, self.decoder = encoder, prompts, decoder

    def forward(
        self,
        x: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Map images [B, C, H, W] to logits [B, K, H, W] of what the prompts mean: see PromptEncoder.

        Without boxes and points, the box is the whole image.
        """
        if (points is None) != (labels is None):
            raise ModelError("sam_unet: points and labels belong together; give both or neither")
        if boxes is None and points is None:
            height, width = x.shape[2:]
            boxes = x.new_tensor([0, 0, width - 1, height - 1]).expand(len(x), 4)
        found, fine = self.encoder(x)
        tokens = self.prompts(boxes, points, labels)
        logits = self.decoder(found + self.prompts.dense(masks), self.prompts.places(), tokens, fine)
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


@register(
    ModelInfo(
        title="SAM-UNet",
        family="hybrid",
        year=2024,
        paper="2408.09886",
        dims=(2,),
        multiple=32,
        fixed=True,
        source=("github:Hhankyangg/sam-unet", "a0b84c5", "none stated"),
        params={2: 51755564},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 91.63},
        activation_mb={2: 343.2},
        notes=(
            "Counts are of what learns; the ViT's 86,672,640 parameters are frozen. Promptable by boxes, points and "
            "masks given to forward; training and prediction prompt with the box of the whole image, which leaves "
            "kinds (of points), filler and mask unused. A token per class, with the reference's one MLP for all, is "
            "ours, as are other sides than squares. Images are to be normalised as ImageNet's."
        ),
    )
)
def sam_unet(
    task: TaskShape,
    *,
    vit: str = "samvit_base_patch16",
    resnet: str = "resnet50",
    hidden: int | None = None,
    frozen: bool = True,
    weights: str | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build SAM-UNet with an encoder of VITS, `frozen` or not, and one of RESNETS.

    `hidden` makes the ViT another width than its own, in heads of 64, for weights of one's own. `weights` is a
    .safetensors or .npz file of SAM-UNet, of Segment Anything or of timm's ViT; `pretrained` takes both encoders from
    timm. Positions and relative tables are resized to the patch size. Raises ModelError for other names and widths.
    """
    tag = choose(VITS, vit, "vit")
    state = source_weights(weights, pretrained, tag)
    beside = TimmEncoder(choose(RESNETS, resnet, "resnet"), task.in_channels, pretrained=pretrained)
    encoder = SamEncoder(_vit(vit, task, hidden), beside)
    grid = tuple(n // PATCH for n in task.patch_size)
    model = SamUnet(encoder, PromptEncoder(CHANNELS, task.patch_size, grid), MaskDecoder(task.num_classes))
    if state is not None:
        load_matching(model, sam_weights(state, model.state_dict()))
    encoder.vit.requires_grad_(not frozen)
    return model


def _vit(name: str, task: TaskShape, hidden: int | None) -> nn.Module:
    import timm  # slow to import, and only needed here

    if hidden is not None and (hidden < HEAD or hidden % HEAD):
        raise ModelError(f"hidden={hidden}: give a multiple of {HEAD}, the width of a head")
    width: dict[str, Any] = {} if hidden is None else {"embed_dim": hidden, "num_heads": hidden // HEAD}
    # timm's own eps is not SAM's
    norm = partial(nn.LayerNorm, eps=1e-6)
    own: dict[str, Any] = {
        "img_size": task.patch_size,
        "in_chans": task.in_channels,
        "num_classes": 0,
        "norm_layer": norm,
    }
    vit: nn.Module = timm.create_model(name, **own, **width)
    return vit

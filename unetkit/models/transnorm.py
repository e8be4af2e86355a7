"""TransNorm: TransUNet whose decoder is scaled by channel gates and by a map of what the ViT attends to.

arXiv:2207.13415.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.attention import MultiHeadAttention
from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.gates import ChannelGate
from unetkit.blocks.layers import Resize
from unetkit.models._pretrained import Renames, load_matching, rename, source_weights
from unetkit.models._vit_weights import vit_weights
from unetkit.models.transunet import DECODER, PATCH, SKIPS, TIMM_TAG, TransUNet, UpBlock, transunet
from unetkit.registry import variant
from unetkit.types import TaskShape

NAMES: Renames = (
    (r"^decoder\.conv_att\.", "beside."),
    (r"\.chatt\.fc\.", ".gate.scale."),
    (r"\.convatt\.", ".beside.1."),
)
"""From the reference's names of what TransUNet lacks."""


class SpatialAttention(MultiHeadAttention):
    """Attention that also mixes a further projection of the tokens, its spatial features."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.spatial = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does and the spatial features, both [B, N, C]."""
        q, k, v, s = self.per_head(x, self.query, self.key, self.value, self.spatial)
        # one attention, [B, heads, N, 2 C / heads], mixes both
        mixed, seen = F.scaled_dot_product_attention(q, k, torch.cat([v, s], -1)).chunk(2, -1)
        return self.out(mixed.transpose(1, 2).flatten(2)), seen.transpose(1, 2).flatten(2)


class ScaledUpBlock(UpBlock):
    """UpBlock with gated channels, multiplied by a map that is enlarged and convolved beside it."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, skip_channels, out_channels)
        self.gate = ChannelGate(DECODER, in_channels + skip_channels)
        self.beside = nn.Sequential(Resize(2, "linear_aligned", 2), ConvNormAct(DECODER, in_channels, out_channels))

    def both(self, x: Tensor, skip: Tensor | None, beside: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's map and the one beside it, [B, out, 2 H, 2 W], from those at [B, C, H, W]."""
        beside = self.beside(beside)
        return self.conv2(self.conv1(self.gate(self.join(x, skip)))) * beside, beside


class TransNorm(nn.Module):
    """The parts of a TransUNet, with spatial attention in its last layer, or in all, and scaled blocks."""

    def __init__(self, base: TransUNet, channels: Sequence[int], heads: int, every_layer: bool) -> None:
        super().__init__()
        self.encoder: Any = base.encoder
        self.conv_more, self.head = base.conv_more, base.head
        self.stem_channels, self.n_skip = base.stem_channels, base.n_skip
        hidden = base.encoder.embed.out_channels
        for block in self.encoder.blocks if every_layer else self.encoder.blocks[-1:]:
            block.attn = SpatialAttention(hidden, heads)
        width: Any = self.conv_more[0].out_channels
        self.beside = ConvNormAct(DECODER, hidden, width)
        skips = [*SKIPS[: self.n_skip], *[0] * (len(channels) - self.n_skip)]
        self.up: Any = nn.ModuleList(map(ScaledUpBlock, (width, *channels), skips, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] to logits [B, K, H, W]."""
        patches, skips = self.encoder.patches(x.expand(-1, self.stem_channels, -1, -1))
        tokens = self.encoder.tokens(patches)
        *blocks, last = self.encoder.blocks
        for block in blocks:
            tokens = block(tokens)
        mixed, seen = last.attn.both(last.norm1(tokens))
        tokens = tokens + mixed
        tokens = self.encoder.norm(tokens + last.mlp(last.norm2(tokens)))
        # [B, h w, C] -> [B, C, h, w]
        x, beside = (t.transpose(1, 2).reshape(patches.shape) for t in (tokens, seen))
        x, beside = self.conv_more(x), self.beside(beside)
        for i, block in enumerate(self.up):
            x, beside = block.both(x, skips[i] if i < self.n_skip else None, beside)
        return self.head(x)


@variant(
    transunet,
    title="TransNorm",
    year=2022,
    paper="2207.13415",
    source=("github:rezazad68/transnorm", "5310ccb", "none stated"),
    params={2: 111133873},
    params_at={2: (3, 1, (224, 224))},
    gflops={2: 66.49},
    activation_mb={2: 505.2},
    notes="Logits: the sigmoid at the reference's end belongs to loss and prediction. The reference computes spatial "
    "features in every layer and uses the last layer's alone; as_published=true keeps those 6496512 unused "
    "parameters, which makes its 117630385. Sizes, grey images and positions as in TransUNet.",
)
def transnorm(task: TaskShape, *, as_published: bool = False, **options: Any) -> nn.Module:
    """Build TransNorm; options and errors as those of `transunet`, but `weights` may also be a file of TransNorm."""
    # weights are read once, below, when all parts are there
    base: Any = transunet(task, **{**options, "weights": None, "pretrained": False})
    model = TransNorm(base, options["decoder_channels"], options["heads"], as_published)
    state = source_weights(options["weights"], options["pretrained"], TIMM_TAG)
    if state is not None:
        load_matching(model, rename(vit_weights(state, [n // PATCH for n in task.patch_size]), NAMES))
    return model

"""Att-SwinU-Net: Swin-Unet whose skips are joined by cross attention, the encoder guiding the decoder's windows.

arXiv:2210.16898. Class tokens of both sides look at each other's patches before a skip is joined, and the attention of
an encoder stage is added to that of the decoder stage beside it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.layers import Layers
from unetkit.blocks.swin import Join, SwinUnet, stem_channels, swin_levels, swin_steps
from unetkit.errors import ModelError
from unetkit.models._pretrained import source_weights
from unetkit.models._swin_weights import SWIN_TAG, load_swin
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

Change = Callable[[Tensor], Tensor]
COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {"add": torch.add, "multiply": torch.mul, "none": None}


class CrossAttention(nn.Module):
    """Let a normalised class token [B, 1, C] look at itself and at the patches [B, N, C] of the other side."""

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_channels
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, inner, bias=False)
        self.key_value = nn.Linear(channels, 2 * inner, bias=False)
        self.out = nn.Linear(inner, channels)

    def forward(self, token: Tensor, patches: Tensor) -> Tensor:
        """Return the token with what it saw added, [B, 1, C]."""
        own = self.norm(token)
        parts = (self.query(own), *self.key_value(torch.cat([own, patches], 1)).chunk(2, -1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # [B, heads, N, C / heads]
        seen = F.scaled_dot_product_attention(q, k, v)
        return token + self.out(seen.transpose(1, 2).flatten(2))


class CrossContext(Join):
    """Join a skip after the mean tokens of both maps have looked, in turn, at the patches of the other map.

    As in the reference each mean token then takes the place of its map's first patch.
    """

    def __init__(self, channels: int, depth: int = 2, heads: int = 8, head_channels: int = 64) -> None:
        super().__init__(channels)
        self.rounds = nn.ModuleList(
            nn.ModuleList(CrossAttention(channels, heads, head_channels) for _ in range(2)) for _ in range(depth)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Map a decoder map and its skip, both [B, *S, C], to one."""
        sides = [side.flatten(1, -2) for side in (x, skip)]  # [B, N, C]
        above, beside = (side.mean(1, keepdim=True) for side in sides)
        patches, skip_patches = (side[:, 1:] for side in sides)
        for pair in self.rounds:
            ask, answer = pair.children()
            above = ask(above, skip_patches)
            beside = answer(beside, patches)
        x, skip = torch.cat([above, patches], 1).view_as(x), torch.cat([beside, skip_patches], 1).view_as(skip)
        return super().forward(x, skip)


class GuidedSwinUnet(SwinUnet):
    """Swin-Unet whose decoder windows weigh their tokens by the attention of the encoder stage beside them too.

    `combine` joins the decoder's attention and the encoder's, both [B, W, heads, N, N], before the values are mixed.
    """

    def __init__(self, *parts: Any, combine: Callable[[Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__(*parts, **options)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        x = self.embed(x)
        skips = []
        for stage in self.layers:
            before = x
            x, weights = _attend(stage, x)
            skips.append((before, weights))
        x = self.layers_up[0](self.norm(x))
        beside = zip(self.layers_up[1:], self.concat_back_dim[1:], skips[-2::-1], strict=True)
        for stage, join, (skip, weights) in beside:
            x, _ = _attend(stage, join(x, skip), partial(self.combine, weights))
        return self.head(x)


def _attend(stage: Any, x: Tensor, change: Change | None = None) -> tuple[Tensor, Tensor]:
    """Run a SwinStage on [B, *S, C], changing its attention, and return the attention of its last block too."""
    for block in stage.blocks:
        mixed, weights = block.attn.with_weights(block.norm1(x), change)
        x = x + block.drop_path(mixed)
        x = x + block.drop_path(block.mlp(block.norm2(x)))
    return stage.step(x), weights


@register(
    ModelInfo(
        title="Att-SwinU-Net",
        family="transformer",
        year=2023,
        paper="2210.16898",
        dims=(2, 3),
        multiple=32,
        multiple_by={"depths": 4},
        source=("github:NITR098/AttSwinUNet", "4b14f37", "none stated"),
        params={2: 32681988},
        params_at={2: (3, 9, (224, 224))},
        gflops={2: 16.57},
        activation_mb={2: 325.6},
        notes=(
            "In the reference the encoder's attention is added after the decoder's has been used, so without effect: "
            "by default it acts as the paper says, as_published=true leaves it out. It is that of the stage's last "
            "block for all blocks, as there. Left out are the 7968 parameters that the reference never uses (a second "
            "patch embedding and a norm), so its count is 32689956. As in the reference a mean token replaces the "
            "first patch of each side. Of Swin-Unet's limits: sizes, grey images and 3D as there."
        ),
    )
)
def att_swin_unet(
    task: TaskShape,
    *,
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.1,
    cross_context: bool = True,
    spatial_attention: str = "add",
    as_published: bool = False,
    weights: str | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Build Att-SwinU-Net with the sizes and weights of Swin-Unet.

    `cross_context`: joins by cross attention instead of plain ones. `spatial_attention` says how the encoder's
    attention changes the decoder's: add, multiply or none. Raises ModelError if the options contradict each other.
    """
    if pretrained and task.dims != 2:
        raise ModelError(f"pretrained weights are 2D, patch_size {task.patch_size} asks for {task.dims}D")
    combine = choose(COMBINE, spatial_attention, "spatial_attention")
    if as_published and spatial_attention == "multiply":
        raise ModelError(
            "as_published=true switches the spatial attention off, so spatial_attention=multiply does nothing"
        )
    levels = swin_levels(
        task, embed_dim=embed_dim, depths=depths, heads=heads, window=window, mlp_ratio=mlp_ratio, drop_path=drop_path
    )
    steps = swin_steps(task.dims, CrossContext if cross_context else Join)
    parts = (Layers(task.dims), stem_channels(task), task.num_classes, levels, steps)
    model = SwinUnet(*parts) if as_published or combine is None else GuidedSwinUnet(*parts, combine=combine)
    state = source_weights(weights, pretrained, SWIN_TAG)
    if state is not None:
        load_swin(model, state)
    return model

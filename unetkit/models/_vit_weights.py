"""Weights of ViTs under other names: those of the TransUNet reference, of Google's npz files and of timm."""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unetkit.models._pretrained import Renames, rename

POSITIONS = "encoder.position_embeddings"


def _from_zero(match: re.Match[str]) -> str:
    return f"encoder.resnet.body.{int(match[1]) - 1}.{int(match[2]) - 1}."


# Google and the reference count from 1 and call the shortcut differently.
_UNITS: Renames = (
    (r"^block(\d)\.unit(\d+)\.", _from_zero),
    (r"\.(downsample|conv_proj)\.", ".projection.0."),
    (r"\.gn_proj\.", ".projection.1."),
)

REFERENCE: Renames = (
    (r"^module\.", ""),
    (r"^transformer\.embeddings\.(hybrid_model\.)?", ""),
    (r"^(body\.|root\.)", ""),
    *_UNITS,
    (r"^(conv|gn)\.", r"encoder.resnet.\1."),
    (r"^patch_embeddings\.", "encoder.embed."),
    (r"^position_embeddings$", POSITIONS),
    (r"^transformer\.encoder\.encoder_norm\.", "encoder.norm."),
    (r"^transformer\.encoder\.layer\.", "encoder.blocks."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.ffn_norm\.", ".norm2."),
    (r"\.ffn\.", ".mlp."),
    (r"^decoder\.conv_more\.", "conv_more."),
    (r"^decoder\.blocks\.", "up."),
    (r"^segmentation_head\.0\.", "head."),
)

GOOGLE: Renames = (
    (r"/", "."),
    (r"\.(kernel|scale)$", ".weight"),
    (r"^(conv|gn)_root\.", r"encoder.resnet.\1."),
    *_UNITS,
    (r"^embedding\.", "encoder.embed."),
    (r"^Transformer\.posembed_input\.pos_embedding$", POSITIONS),
    (r"^Transformer\.encoder_norm\.", "encoder.norm."),
    (r"^Transformer\.encoderblock_", "encoder.blocks."),
    (r"\.LayerNorm_0\.", ".norm1."),
    (r"\.LayerNorm_2\.", ".norm2."),
    (r"\.MultiHeadDotProductAttention_1\.", ".attn."),
    (r"\.MlpBlock_3\.Dense_0\.", ".mlp.fc1."),
    (r"\.MlpBlock_3\.Dense_1\.", ".mlp.fc2."),
)

TIMM: Renames = (
    (r"^norm\.", "encoder.norm."),
    (r"^blocks\.", "encoder.blocks."),
    (r"^pos_embed$", POSITIONS),
    (r"^patch_embed\.proj\.", "encoder.embed."),
    (r"^patch_embed\.backbone\.stem\.conv\.", "encoder.resnet.conv."),
    (r"^patch_embed\.backbone\.stem\.norm\.", "encoder.resnet.gn."),
    (r"^patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d+)\.", r"encoder.resnet.body.\1.\2."),
    (r"(resnet.*)\.downsample\.conv\.", r"\1.projection.0."),
    (r"(resnet.*)\.downsample\.norm\.", r"\1.projection.1."),
    (r"(resnet.*)\.norm(\d)\.", r"\1.gn\2."),
    (r"\.attn\.proj\.", ".attn.out."),
)


def vit_weights(state: dict[str, Tensor], grid: Sequence[int]) -> dict[str, Tensor]:
    """Return `state` under the names and in the shapes of `TransUNet`, positions zoomed to `grid` patches per axis.

    Keys tell where it comes from; one that has our names already only gets its positions zoomed.
    """
    if any(key.endswith("/kernel") for key in state):
        # the layout first: it goes by Flax's names
        state = rename({key: _from_flax(key, tensor) for key, tensor in state.items()}, GOOGLE)
    elif any("transformer.embeddings." in key for key in state):
        state = rename(state, REFERENCE)
    elif "pos_embed" in state:
        state = _split_qkv(rename(state, TIMM))
    if POSITIONS in state:
        state[POSITIONS] = zoom_positions(state[POSITIONS], grid)
    return state


def _from_flax(key: str, tensor: Tensor) -> Tensor:
    """Turn a Flax tensor into the layout of torch: HWIO to OIHW, (in, out) to (out, in), heads flattened."""
    if key.endswith("pos_embedding"):
        return tensor
    if not key.endswith("/kernel"):
        return tensor.flatten()
    if tensor.ndim == 4:  # a convolution
        return tensor.permute(3, 2, 0, 1)
    # attention: out is [heads, d, C], query, key and value are [C, heads, d]
    return (tensor.flatten(0, -2) if key.endswith("/out/kernel") else tensor.flatten(1)).t()


def _split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for key, tensor in state.items():
        if ".attn.qkv." in key:
            # timm stacks the three along the outputs
            for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[key.replace(".qkv.", f".{name}.")] = part
        else:
            split[key] = tensor
    return split


def zoom_positions(positions: Tensor, grid: Sequence[int]) -> Tensor:
    """Zoom learned positions [1, N, C] of a square grid to those of `grid`, [1, product of grid, C].

    A class token at their front is dropped. Linear, with the corners kept in place, as `scipy.ndimage.zoom`
    does it in the reference.
    """
    count = positions.shape[1]
    side = math.isqrt(count)
    if side * side != count:  # one more than a square: the class token
        positions, side = positions[:, 1:], math.isqrt(count - 1)
    if [side, side] == list(grid):
        return positions
    image = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, C, side, side]
    zoomed = F.interpolate(image.to(torch.float32), tuple(grid), mode="bilinear", align_corners=True)
    return zoomed.flatten(2).transpose(1, 2)

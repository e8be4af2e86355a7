"""The short causal convolution that stands before a scan."""

import torch.nn.functional as F
from torch import Tensor

from unetkit.blocks.scan import packages
from unetkit.blocks.scan.backends import choose_backend
from unetkit.errors import ModelError

BACKENDS = ("torch", "causal_conv1d")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Let every channel of x [B, D, L] see its K - 1 tokens before, by weight [D, K] and bias [D]; [B, D, L].

    `activation` is None or "silu". With `reverse`, a token sees those after it: what flipping x before and the result
    after would give. From Mamba (arXiv:2312.00752). Torch's convolution obeys the autocast; backend="causal_conv1d",
    for widths 2 to 4, stays in the dtype of x.
    Raises ModelError for another activation, or a backend that is not there or does not take the inputs.
    """
    backend = choose_backend("causal_conv1d", backend, x.device, BACKENDS)
    if activation not in (None, "silu", "swish"):
        raise ModelError(f"causal_conv1d has no activation {activation!r}; use 'silu' or None")
    if backend == "causal_conv1d":
        return packages.causal_conv1d(x, weight, bias, activation, reverse)
    width = weight.shape[-1]
    kernel = (weight.flip(-1) if reverse else weight)[:, None]
    # padded on both sides by the convolution itself, which is cheaper than a padded copy of x
    y = F.conv1d(x, kernel, bias, padding=width - 1, groups=x.shape[1])
    y = y[..., width - 1 :] if reverse else y[..., : x.shape[-1]]
    return y if activation is None else F.silu(y)

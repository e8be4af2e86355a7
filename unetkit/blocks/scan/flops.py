"""Arithmetic of the scans, multiplications and additions each counted: what torch's FlopCounterMode adds up."""

from collections.abc import Sequence


def selective_scan_flops(batch: int, length: int, channels: int, states: int) -> int:
    """Count a forward pass of the Mamba-1 scan: 9 a state and token (VMamba's accounting), and the skip."""
    return batch * length * channels * (9 * states + 2)


def selective_scan_backward_flops(batch: int, length: int, channels: int, states: int) -> int:
    """Count a backward pass of the Mamba-1 scan: 5 a state and token to make the states again, 15 for the gradients."""
    return batch * length * channels * (20 * states + 6)


def ssd_flops(tokens: int, heads: int, width: int, states: int, chunk: int) -> int:
    """Count a forward pass of the chunked Mamba-2 scan over `tokens` in all: products within chunks, and the state."""
    return tokens * heads * (2 * chunk * (states + width) + 4 * states * width)


def mlstm_flops(tokens: int, keys: int, values: int, chunk: int) -> int:
    """Count a forward pass of the chunked mLSTM over the tokens of all heads: pairs, memory, normaliser."""
    return tokens * (2 * chunk * (keys + values) + 4 * keys * values + chunk + 4 * keys)


def mlstm_backward_flops(tokens: int, keys: int, values: int, chunk: int) -> int:
    """Count a backward pass of the chunked mLSTM: five products of pairs, five with memories; scores are done again."""
    return tokens * (2 * chunk * (3 * keys + 2 * values) + 10 * keys * values)


def bi_wkv_flops(elements: int) -> int:
    """Count a forward pass of the bidirectional WKV, a token and channel: 4 running sums at 4, weights, the average."""
    return elements * (4 * 4 + 12)


def bi_wkv_backward_flops(elements: int) -> int:
    """Count a backward pass of the bidirectional WKV: the sums of both passes, and their products."""
    return elements * (2 * 4 * 4 + 24)


def hsm_states_flops(x: Sequence[int], states: int) -> int:
    """Count the gathering of x [B, D, L] into states: a product, the softmax and its weights; spreading is another."""
    batch, channels, tokens = x
    return batch * tokens * states * (2 * channels + 5)

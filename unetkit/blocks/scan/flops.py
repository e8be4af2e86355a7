"""Arithmetic of the scans, multiplications and additions each counted: what torch's FlopCounterMode adds up."""


def selective_scan_flops(batch: int, length: int, channels: int, states: int) -> int:
    """Count a forward pass of the Mamba-1 scan: 9 a state and token (VMamba's accounting), and the skip."""
    return batch * length * channels * (9 * states + 2)


def ssd_flops(tokens: int, heads: int, width: int, states: int, chunk: int) -> int:
    """Count a forward pass of the chunked Mamba-2 scan over `tokens` in all: products within chunks, and the state."""
    return tokens * heads * (2 * chunk * (states + width) + 4 * states * width)

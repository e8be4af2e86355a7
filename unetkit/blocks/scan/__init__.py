"""Recurrent operators in linear time as pure functions, and the orders in which they walk through a map."""

from unetkit.blocks.scan.conv import causal_conv1d
from unetkit.blocks.scan.hsm import hsm_ssd
from unetkit.blocks.scan.mlstm import mlstm
from unetkit.blocks.scan.orders import (
    Order,
    bidirectional,
    bidirectional_merge,
    cross_merge,
    cross_orders,
    cross_scan,
    interslice,
    interslice_inverse,
    merge_map,
    scan_map,
    to_map,
    to_tokens,
)
from unetkit.blocks.scan.selective import selective_scan
from unetkit.blocks.scan.ssd import ssd
from unetkit.blocks.scan.wkv import bi_wkv

__all__ = [
    "Order",
    "bi_wkv",
    "bidirectional",
    "bidirectional_merge",
    "causal_conv1d",
    "cross_merge",
    "cross_orders",
    "cross_scan",
    "hsm_ssd",
    "interslice",
    "interslice_inverse",
    "merge_map",
    "mlstm",
    "scan_map",
    "selective_scan",
    "ssd",
    "to_map",
    "to_tokens",
]

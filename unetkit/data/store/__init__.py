"""Prepared cases on disk."""

from unetkit.data.store.packing import packed, unpacked
from unetkit.data.store.room import available_memory, gigabytes, prepared_bytes, require_room
from unetkit.data.store.store import Names, Store, StoredCase, open_store

__all__ = [
    "Names",
    "Store",
    "StoredCase",
    "available_memory",
    "gigabytes",
    "open_store",
    "packed",
    "prepared_bytes",
    "require_room",
    "unpacked",
]

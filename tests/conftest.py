"""Fixtures shared by all tests."""

import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real labelled images; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real labelled images (shared/data beside the checkout) are not here")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_arrives() -> None:
    """A shell that starts pytest in the background has it, and all its children, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

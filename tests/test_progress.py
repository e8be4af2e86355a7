"""The bar over cases: on a terminal alone, and not before there is something to show."""

import io
import sys

import pytest

from unetkit.progress import case_bar


class Terminal(io.StringIO):
    """A stderr that people look at."""

    def isatty(self) -> bool:
        return True


def test_the_bar_comes_with_the_first_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    tick = case_bar("scoring")
    assert sys.stderr.getvalue() == ""
    tick(1, 3)
    assert "scoring" in sys.stderr.getvalue()
    assert "1/3" in sys.stderr.getvalue()
    tick(2, 3)
    tick(3, 3)
    assert sys.stderr.getvalue().endswith("\r")  # taken away again


@pytest.mark.parametrize(("stream", "shown"), [(io.StringIO, True), (Terminal, False)])
def test_nothing_where_it_is_piped_or_not_wanted(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    case_bar("scoring", shown)(1, 1)
    assert sys.stderr.getvalue() == ""

"""Kept memory: a second large temporary costs no page faults."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from unetkit.engine.memory import keep_heap
kept = keep_heap() if sys.argv[1] == "keep" else False
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = bytearray(64 << 20)
    del array
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is set")
def test_kept_heap_is_used_again():
    found = {}
    for how in ("keep", "leave"):
        # in processes of their own: the setting holds for a whole process
        run = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        kept, faults = run.stdout.split()
        found[how] = int(faults)
        assert kept == str(how == "keep")
    assert found["keep"] < 100 < found["leave"]

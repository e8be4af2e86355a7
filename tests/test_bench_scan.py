"""tools/bench_scan prints rows beside ours, and says of those that have no numbers why."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[1] / "tools" / "bench_scan"


def table(*words: str) -> dict[str, list[str]]:
    """The cells of each row of the last table that the tool prints."""
    run = subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, check=True)
    lines = [line.strip("| ").split(" | ") for line in run.stdout.split("tokens\n")[-1].splitlines() if "|" in line]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_a_table_has_times_memory_ratios_and_what_is_missing(tmp_path: Path) -> None:
    rows = table("selective_scan", "--lengths", "33", "--rows", "unbind,VMamba", "--peers", str(tmp_path))
    assert next(iter(rows)) == "row"
    assert {"forward ms", "fwd+bwd ms", "times ours", "MiB forward", "MiB fwd+bwd"} <= set(rows["row"])
    assert rows["unetkit"][1] == "1.00"
    assert all(float(cell) >= 0 for cell in rows["loop over unbind"])
    distance = rows["row"].index("distance")
    assert float(rows["loop over unbind"][distance]) < 1e-4
    assert rows["VMamba selective_scan_torch"][0].startswith("FileNotFoundError: csms6s.py")


def test_a_row_over_its_limits_says_so_and_is_not_tried_again() -> None:
    rows = table("bi_wkv", "--lengths", "512,1024", "--rows", "all pairs", "--memory", "0.5")
    assert rows["all pairs"][0] == "needs more memory than 0.5 GiB at 512 tokens"
    assert float(rows["unetkit"][0]) > 0

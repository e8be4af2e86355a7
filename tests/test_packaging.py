"""What a wheel carries, and that an installed copy works away from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_carries_all_that_the_package_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"unetkit/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "unetkit").rglob("*") if p.suffix in (".py", ".css", ".typed")}
    assert recipes
    assert recipes | sources <= names
    assert not [
        name for name in names if name.split("/")[0] not in ("unetkit", wheel.name.split("-py3")[0] + ".dist-info")
    ]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_an_unpacked_wheel_finds_its_recipes(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import unetkit; assert unetkit.__file__.startswith(sys.argv[1]); "
        "from unetkit.cli import main; raise SystemExit(main(['show', 'recipe=quickstart']))"
    )
    # -P: not the checkout that the tests were started in
    shown = subprocess.run([sys.executable, "-P", "-c", code, tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "# recipe quickstart" in shown.stdout

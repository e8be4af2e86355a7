"""Which room may import which: never upward, and nothing heavy where an answer must be quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "unetkit"

# Room -> the rooms it may import from; what those may use, it may use too.
FLOORS = {
    "errors": (),
    "progress": (),
    "topology": (),
    "types": ("errors",),
    "model_files": ("errors",),
    "registry": ("types", "model_files"),
    "recipe": ("errors", "registry"),
    "metrics": ("types",),
    "blocks": ("types", "topology"),
    "models": ("blocks", "registry"),
    "draw": ("registry",),
    "plan.plan": ("types",),
    "data": ("types", "recipe", "plan.plan", "progress"),
    "plan": ("data", "topology", "registry"),
    "checkpoint": ("registry", "recipe", "plan"),
    "infer": ("checkpoint", "plan", "data", "blocks"),
    "report": ("metrics", "types"),
    "evaluation": ("infer", "metrics", "data", "report"),
    "engine": ("evaluation", "report"),
    "bench": ("engine",),
    "cli": ("bench", "draw", "unetkit"),
    "__init__": ("bench", "unetkit"),
    "__main__": ("cli",),
}


def room_of(module: str) -> str:
    """unetkit.data.volumes -> data; plan/plan.py is a room of its own below data."""
    parts = module.split(".")[1:]
    return "plan.plan" if parts[:2] == ["plan", "plan"] else (parts[0] if parts else "unetkit")


def allowed(room: str) -> set[str]:
    """Everything a room may use, itself included."""
    below = [allowed(r) for r in FLOORS[room] if r in FLOORS]
    return {room, *FLOORS[room]}.union(*below)


def imports(path: Path) -> set[str]:
    """The unetkit modules a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "unetkit":
            inner = [f"{node.module}.{a.name}" for a in node.names]
            found |= {
                m if (PACKAGE.parent / Path(*m.split("."))).with_suffix(".py").exists() else node.module for m in inner
            }
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "unetkit"}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_file_stays_on_its_floor(path: Path) -> None:
    module = ".".join(["unetkit", *path.relative_to(PACKAGE).with_suffix("").parts])
    room = room_of(module.removesuffix(".__init__"))
    room = "__init__" if path == PACKAGE / "__init__.py" else room
    wrong = {m for m in imports(path) if room_of(m) not in allowed(room)}
    assert not wrong, f"{module} ({room}) may import only from {sorted(allowed(room))}"


@pytest.mark.parametrize(
    "module", ["unetkit", "unetkit.cli", "unetkit.cli.verbs", "unetkit.recipe", "unetkit.data.catalog"]
)
def test_quick_modules_import_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'monai', 'scipy', 'nibabel', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_training_starts_without_matplotlib() -> None:
    """It takes a second in each process, and only the one that writes the report needs it."""
    seen, waiting = set(), {"unetkit.engine.train"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        path = (PACKAGE.parent / Path(*module.split("."))).with_suffix(".py")
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        body = ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []
        found = [node for node in body if isinstance(node, ast.ImportFrom) and node.module]
        assert not [node for node in found if node.module.startswith("matplotlib")], module
        ours = [node for node in found if node.module.startswith("unetkit")]
        named = {name for n in ours for name in (n.module, *(f"{n.module}.{a.name}" for a in n.names))}
        waiting |= named - seen
    assert "unetkit.report.write" in seen


def test_import_gives_every_public_name_and_no_other() -> None:
    import unetkit

    # In a process of its own: a room that someone else imported is an attribute already.
    code = "import unetkit; [getattr(unetkit, name) for name in unetkit.__all__]; unetkit.plan.nnunet_plan"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = unetkit.nonsense

"""Tables and cards of what there is: models, recipes, data sets, runs. Nothing here imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unetkit.errors import CheckpointError, RecipeError, nearest
from unetkit.registry import ModelInfo, catalog, list_models, model_info, size_rule

Row = dict[str, Any]


def models(words: list[str]) -> list[Row]:
    """Return a row for each model that passes the filters."""
    from unetkit.cli.arguments import ListWords, read_words

    args = read_words(words, ListWords)
    names = list_models(args.name, family=args.family, dims=args.dims, year=args.year, max_params=args.max_params)
    rows = [_model_row(catalog()[name]) for name in names]
    return [r for r in rows if args.licence is None or r["licence"].lower() == args.licence.lower()]


def _model_row(info: ModelInfo) -> Row:
    # 2D before 3D; some models have sizes that the plan decides, and so no published count.
    params = " / ".join(f"{info.params[d] / 1e6:.2f}M" for d in sorted(info.params))
    return {
        "name": info.name,
        "title": info.title,
        "family": info.family,
        "year": info.year,
        "dims": "+".join(f"{d}D" for d in info.dims),
        "params": params or "by plan",
        "paper": info.paper,
        "licence": info.source[2],
    }


def recipes(_: list[str]) -> list[Row]:
    """Return a row for each recipe that comes with unetkit."""
    from unetkit.recipe import list_recipes, resolve

    rows = []
    for name in list_recipes():
        recipe = resolve(recipe=name).recipe
        data = recipe.data.dataset or recipe.data.root
        rows.append({"name": name, "model": recipe.model.name, "data": data, "description": recipe.description})
    return rows


def datasets(_: list[str]) -> list[Row]:
    """Return a row for each data set that unetkit knows by name."""
    from unetkit.data.catalog import DATASETS

    return [
        {"name": d.name, "dims": "+".join(f"{n}D" for n in d.dims), "generated": d.generated, "title": d.title}
        for d in DATASETS.values()
    ]


def as_text(rows: list[Row]) -> str:
    """Lay rows out in columns."""
    if not rows:
        return "nothing matches"
    cells = [[str(k) for k in rows[0]], *([_cell(v) for v in row.values()] for row in rows)]
    # One width a column, and no padding at the end, so that lines can be compared and cut.
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def model_card(name: str) -> tuple[Row, str]:
    """Return what is known of a model, as a document and as text."""
    info = model_info(name)
    legal = size_rule(info, max(info.dims)).replace("sides must be at least 1", "any sides")
    changing = [*info.multiple_by, *info.min_size_by]
    legal += f"; {', '.join(changing)} change that" if changing else ""
    legal += "; input of the size it was built for" if info.fixed else ""
    repository, commit, licence = info.source
    card = _model_row(info) | {
        "params": {f"{d}D": n for d, n in info.params.items()},
        "params_at": {f"{d}D": dict(zip(_AT, at, strict=True)) for d, at in info.params_at.items()},
        "input": legal,
        "deep_supervision": info.deep_supervision,
        "reference": f"{repository}@{commit} ({licence})" if repository else "none",
        "needs": list(info.needs),
        "options": info.options,
        "notes": info.notes,
    }
    return card, "\n".join(f"{key:<17}{_inline(value)}" for key, value in card.items())


_AT = ("in_channels", "num_classes", "patch_size")


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_inline(v)}" for k, v in value.items()) or "-"
    return _cell(value) if not isinstance(value, list) else ", ".join(map(str, value)) or "-"


def dataset_card(name: str) -> tuple[Row, str]:
    """Return what is known of a named data set. Raises RecipeError with the nearest name."""
    from dataclasses import asdict

    from unetkit.data.catalog import DATASETS

    if name not in DATASETS:
        raise RecipeError(f"dataset={name}: no such data set{nearest(name, DATASETS)}; there are {', '.join(DATASETS)}")
    card = asdict(DATASETS[name])
    return card, "\n".join(f"{key:<17}{_inline(value)}" for key, value in card.items())


def run_card(folder: str) -> tuple[Row, str]:
    """Return the recipe of a run or study with origins, and where each run of a study stands.

    Raises CheckpointError if the folder is neither.
    """
    path = Path(folder)
    try:
        text = (path / "recipe.yaml").read_text(encoding="utf-8")
        origins = json.loads((path / "origins.json").read_text(encoding="utf-8"))
        runs = _runs_of_study(path)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"run={folder}: this is no run folder of unetkit (recipe.yaml, origins.json)") from error
    # From here on a schema is needed, which takes longer to import than the answers above.
    from unetkit.recipe import Resolved
    from unetkit.recipe.merge import recipe_from_json
    from unetkit.recipe.words import read_yaml

    tree = read_yaml(text, str(path / "recipe.yaml"))
    lines = "\n".join(Resolved(recipe_from_json(tree), origins).lines())
    card = {"recipe": tree, "origins": origins}
    return (card | {"runs": runs}, f"{as_text(runs)}\n\n{lines}") if runs else (card, lines)


def _runs_of_study(path: Path) -> list[Row]:
    """Return a row for each run of a study as it last said of itself; none for a run."""
    if not (path / "study.json").is_file():
        return []
    nodes = json.loads((path / "study.json").read_text(encoding="utf-8"))["nodes"]
    return [
        {
            "run": node["name"],
            "state": node["state"],
            "dice": "-" if node["dice"] is None else f"{node['dice']:.4f}",
            "seconds": "-" if node["seconds"] is None else f"{node['seconds']:.0f}",
            "reason": node["reason"],
        }
        for node in nodes
    ]

"""Tables and cards of what there is: models, recipes, data sets, runs. Nothing here imports torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import wrap
from typing import Any

from unetkit.errors import CheckpointError, RecipeError, counted, nearest
from unetkit.registry import ModelInfo, catalog, list_models, model_info, size_rule

Row = dict[str, Any]


def models(words: list[str]) -> list[Row]:
    """Return a row for each model that passes the filters."""
    from unetkit.cli.arguments import ListWords, read_words

    args = read_words(words, ListWords)
    filters = args.model_dump(exclude={"name"})
    return [_model_row(catalog()[name]) for name in list_models(args.name, **filters)]


def _model_row(info: ModelInfo) -> Row:
    # 2D before 3D; some models have sizes that the plan decides, and so no published count.
    params = " / ".join(f"{info.params[d] / 1e6:.2f}M" for d in sorted(info.params))
    gflops = " / ".join(f"{info.gflops[d]:.4g}" for d in sorted(info.gflops))
    return {
        "name": info.name,
        "title": info.title,
        "family": info.family,
        "year": info.year,
        "dims": _dims(info),
        "params": params or "by plan",
        "gflops": gflops or "-",
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


def benches(_: list[str]) -> list[Row]:
    """Return a row for each benchmark that comes with unetkit."""
    from unetkit.recipe.bench import list_jobs

    return [{"name": name, **told} for name, told in list_jobs().items()]


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
    legal = size_rule(info, max(info.dims))
    legal = "any sides" if legal == "sides must be at least 1" else legal
    changing = [*info.multiple_by, *info.min_size_by]
    legal += f"; {', '.join(changing)} change that" if changing else ""
    legal += "; input of the size it was built for" if info.fixed else ""
    repository, commit, licence = info.source
    about = {"name": name, "title": info.title, "new": info.new, "family": info.family, "year": info.year}
    built = {
        "input": legal,
        "deep_supervision": info.deep_supervision,
        "reference": f"{repository}@{commit} ({licence})" if repository else "none",
        "needs": list(info.needs),
        "options": info.options,
        "notes": info.notes,
    }
    paper = {"paper": paper_link(info.paper)}
    counted = {
        "params": {f"{d}D": n for d, n in info.params.items()},
        "params_at": {f"{d}D": dict(zip(_AT, at, strict=True)) for d, at in info.params_at.items()},
        "gflops": {f"{d}D": n for d, n in info.gflops.items()},
        "activation_mb": {f"{d}D": n for d, n in info.activation_mb.items()},
    }
    dims = {"dims": _dims(info)}
    told = about | paper | dims | {f"cost in {d}D": _cost(info, d) for d in info.dims} | built
    return about | paper | dims | counted | built | {"licence": licence}, _as_card(told)


_AT = ("in_channels", "num_classes", "patch_size")
_PAPER = ((r"\d{4}\.\d{4,5}", "https://arxiv.org/abs/"), (r"10\.\d{4,}/\S+", "https://doi.org/"))


def paper_link(paper: str) -> str:
    """Return the address of a paper named by its number at arXiv or its DOI; anything else as it is."""
    return next((address + paper for kind, address in _PAPER if re.fullmatch(kind, paper)), paper)


def _dims(info: ModelInfo) -> str:
    return "+".join(f"{d}D" for d in info.dims)


def _cost(info: ModelInfo, dims: int) -> str:
    """Say in one line what a model takes in these dims, and at which size that holds."""
    if dims not in info.params:
        return "as the options and the patch decide; no published count"
    channels, classes, size = info.params_at[dims]
    parts = [f"{info.params[dims]:,} parameters"]
    parts += [f"{info.gflops[dims]:,g} GFLOPs"] if dims in info.gflops else []
    parts += [f"{info.activation_mb[dims]:,g} MB of maps kept in training"] if dims in info.activation_mb else []
    return f"{', '.join(parts)} at {channels} x {' x '.join(map(str, size))} to {counted(classes, 'class')}, fp32"


def _as_card(card: Row) -> str:
    """Lay a card out: a key and its value a line, long sentences broken."""
    lines = []
    for key, value in card.items():
        text = _inline(value)
        # lists of options stay whole, to be searched and cut
        broken = wrap(text, _LINE) if key in ("new", "notes") else [text]
        lines += [f"{key if i == 0 else '':<17}{part}" for i, part in enumerate(broken or ["-"])]
    return "\n".join(lines)


_LINE = 103
"""Of a card's text, which with its key is 120 wide."""


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
    return card, _as_card(card)


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

"""Reading recipes: order of origins, all faults at once, the nearest right name."""

import json
from pathlib import Path

import pytest

from unetkit.errors import RecipeError
from unetkit.recipe import Recipe, list_recipes, resolve
from unetkit.recipe.faults import section_of
from unetkit.recipe.merge import flatten_recipe, known_keys, recipe_from_json
from unetkit.recipe.schema import Section
from unetkit.recipe.words import nest, parse_words, read_yaml


def faults_of(*words: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        resolve(words)
    return list(caught.value.faults)


def test_order_and_origin(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 7, optimizer: {lr: 1e-4}}\n")
    found = resolve(["train.epochs=9", "data.dataset=phantom2d"], recipe=str(path))
    assert (found.recipe.train.epochs, found.recipe.train.optimizer.lr, found.recipe.train.clip_norm) == (9, 1e-4, 12.0)
    assert found.origins["train.epochs"] == "command line"
    assert found.origins["train.optimizer.lr"] == "recipe mine"
    assert "train.clip_norm" not in found.origins
    shown = {line.split(" = ")[0]: line.rsplit("# ", 1)[1] for line in found.lines()}
    assert (shown["train.epochs"], shown["train.clip_norm"]) == ("command line", "default")


def test_all_faults_at_once() -> None:
    faults = faults_of(
        "train.epoch=5", "trian.lr=1", "train.epochs=-1", "train.optimizer.name=adam", "seed=true", "model.name=unett"
    )
    assert faults == [
        "seed=true: expected a whole number",
        "train.epochs=-1: expected greater than or equal to 1",
        "train.optimizer.name=adam: expected one of sgd, adamw (did you mean 'adamw'?)",
        "unknown key 'train.epoch' (did you mean 'train.epochs'?)",
        "unknown key 'trian' (did you mean 'train'?)",
        "model.name=unett: there is no such model (did you mean 'unet'?)",
    ]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("epochs=4", "unknown key 'epochs' (did you mean 'train.epochs'?)"),
        ("--train.epochs=5", "--train.epochs=5: write train.epochs=5 (no '--' before a key)"),
        ("+train.epochs=5", "+train.epochs=5: write train.epochs=5 (no '+' before a key)"),
        ("~train.epochs", "~train.epochs: write train.epochs=VALUE (no '~' before a key)"),
        ("train.epochs", "train.epochs: expected key=value, for example train.epochs=50"),
        ("train.epochs=50.0", "train.epochs=50.0: expected a whole number"),
        ("train.epochs=ten", "train.epochs=ten: expected a whole number"),
        ("data.strict=yes", "data.strict=yes: expected true or false"),
        ("data.patch_size=64", "data.patch_size=64: expected a list such as [64, 64]"),
        ("train=5", "train=5: expected a section of keys"),
        (
            "data.classes=[",
            "data.classes, line 1: this is not valid YAML (expected the node content, but found '<stream end>')",
        ),
        ("model.witdhs=[8]", "unknown key 'model.witdhs' (did you mean 'widths'?)"),
    ],
)
def test_one_fault(word: str, line: str) -> None:
    assert faults_of(word)[0].startswith(line)


@pytest.mark.parametrize("text", ["{[1, 2]: 3}", "a\x07b"])
def test_yaml_that_cannot_be_is_a_fault_of_the_user(text: str) -> None:
    assert "this is not valid YAML" in faults_of(f"data.classes={text}")[0]


def test_a_section_on_the_command_line_is_the_origin_of_its_keys() -> None:
    origins = resolve(["train.optimizer={name: adamw, lr: 1e-3}"]).origins
    assert origins == {"train.optimizer.name": "command line", "train.optimizer.lr": "command line"}


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no such recipe .did you mean 'quickstart'"):
        resolve(["recipe=quikstart"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("data.root=x", "data.dataset=phantom2d"), "contradict each other"),
        (("data.threshold=5", "data.classes={a: 1, b: 2}"), "one foreground class, classes names 2"),
        (("data.clip=[5, 1]",), "first value must be below"),
        (("data.clip=[0, 1]", "data.normalization=zscore"), "clip is not used by normalization=zscore"),
        (("data.clip=[0, 1]", "data.normalization=[zscore, none]"), "clip is not used by normalization=zscore,none"),
        (("data.normalization=[zscore, cz]",), "expected one of auto, ct, clip_minmax"),
        (("data.store=here", "data.cache=none"), "store is not used by cache=none; drop it or use cache=disk"),
        (("data.split.kind=kfold", "data.split.fold=7"), "fold 7 does not exist among 5 folds"),
        (("train.loss.name=dice_bce",), "set data.regions=true"),
        (("data.regions=true", "train.loss.name=dice_ce"), "use dice_bce"),
        (("train.epochs=1", "train.epochs=2"), "given twice"),
        (("train.schedule.min_lr=0.1",), "above train.optimizer.lr=0.01"),
    ],
)
def test_contradictions(words: tuple[str, ...], part: str) -> None:
    assert any(part in fault for fault in faults_of(*words))


def test_numbers_and_booleans_of_yaml() -> None:
    assert read_yaml("[1e-4, 5, 5.0, .5, -3e2, no, true, '1']", "x") == [1e-4, 5, 5.0, 0.5, -300.0, "no", True, "1"]
    assert isinstance(read_yaml("5", "x"), int)
    with pytest.raises(RecipeError, match="line 2: the key 'a' stands twice"):
        read_yaml("a: 1\na: 2", "x")


def test_split_at_the_first_equals_sign_only() -> None:
    assert parse_words(["data.root=/a=b/c"]) == ({"data.root": "/a=b/c"}, [])
    assert nest({"a.b": 1, "a.c": 2}) == {"a": {"b": 1, "c": 2}}


def test_classes_replace_those_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {classes: {liver: 6, spleen: 1}}\n")
    assert resolve(["data.classes={tumour: 2}"], recipe=str(path)).recipe.data.classes == {"tumour": 2}


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_valid_and_say_what_they_are(name: str) -> None:
    recipe = resolve(recipe=name).recipe
    assert recipe.description
    text = list_recipes()[name].read_text()
    assert f"unetkit train recipe={name}" in text
    assert "Expect" in text


def test_stored_recipe_comes_back() -> None:
    recipe = resolve(["data.classes={a: [1, 2]}", "model.widths=[8, 16]", "train.epochs=3"]).recipe
    again = recipe_from_json(json.loads(recipe.model_dump_json()))
    assert again == recipe
    assert set(known_keys()) - set(flatten_recipe(recipe)) == set()
    with pytest.raises(RecipeError, match=r"unknown key 'train\.old_key'"):
        recipe_from_json({"train": {"old_key": 1}})


def test_every_key_is_explained() -> None:
    def undescribed(section: type[Section]) -> list[str]:
        missing = []
        for name, field in section.model_fields.items():
            inner = section_of(field.annotation)
            missing += undescribed(inner) if inner else [] if field.description else [f"{section.__name__}.{name}"]
        return missing

    assert undescribed(Recipe) == []

"""What label values mean: from the recipe, else from the data set's own words, else from the files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from unetkit.data.labels import MAX_CLASSES
from unetkit.errors import DataError, RecipeError
from unetkit.recipe.schema import DataSection, LabelValue
from unetkit.types import Labels

_BACKGROUND = re.compile(r"^(background|backgr\.?|bg|none|void|other|unlabel+ed|clear label)$", re.IGNORECASE)
_IGNORE = re.compile(r"^ignored?$|\(ignored?\)", re.IGNORECASE)


@dataclass(frozen=True)
class Declared:
    """What a data set says about its label values.

    `names`: value -> meaning, background included. `regions`: name -> values, where classes overlap.
    `instances`: values number the objects. `fixed`: the files already hold the numbers of a published
    protocol, so that a recipe written for the original numbers must not be applied.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignore: tuple[int, ...] = ()
    instances: bool = False
    fixed: bool = False

    @property
    def classes(self) -> dict[str, tuple[int, ...]]:
        """Foreground classes and their values in ascending order; values of the same meaning are one class."""
        if self.regions:
            return dict(self.regions)
        grouped: dict[str, tuple[int, ...]] = {}
        for value, name in sorted(self.names.items()):
            # Value 0 counts as background by its name only: in some sets (ISBI 2012) it is the wanted class.
            if value not in self.ignored and not (_BACKGROUND.match(name.strip())):
                grouped[name] = (*grouped.get(name, ()), value)
        return grouped

    @property
    def ignored(self) -> tuple[int, ...]:
        """Values that say nothing."""
        named = [value for value, name in self.names.items() if value and _IGNORE.search(name.strip())]
        return tuple(sorted({*self.ignore, *named}))

    @property
    def values(self) -> set[int]:
        """Every value the data set knows of."""
        return {*self.names, *(value for values in self.regions.values() for value in values), *self.ignored}


def declared_from(tree: object, ignore: tuple[int, ...] = ()) -> Declared:
    """Understand `labels` of a JSON file: {value: meaning}, {name: value or values}, or a sentence on instances.

    Raises DataError if it is none of these.
    """
    if isinstance(tree, str):
        return Declared(ignore=ignore, instances="instance" in tree.lower())
    if not tree:
        return Declared(ignore=ignore)
    if not isinstance(tree, dict):
        raise DataError(f"labels: {tree!r}; give an object {{value: meaning}} or {{name: value}}")
    # Version 1 of nnU-Net and the Decathlon write {value: name}, version 2 {name: value}.
    if all(re.fullmatch(r"-?\d+", str(key)) for key in tree):
        return Declared({int(key): str(name) for key, name in tree.items()}, ignore=ignore)
    named = {str(name): _values(value, str(name)) for name, value in tree.items()}
    ignored = tuple(v for name, values in named.items() if _IGNORE.search(name) for v in values)
    wanted = {name: values for name, values in named.items() if not _IGNORE.search(name)}
    # Lists alone make no regions: two values of one class may be joined without any overlap.
    if any(isinstance(value, list) and len(value) > 1 for value in tree.values()) and _overlap(wanted):
        regions = {name: values for name, values in wanted.items() if not _BACKGROUND.match(name)}
        return Declared(regions=regions, ignore=(*ignore, *ignored))
    names = {value: name for name, values in wanted.items() for value in values}
    return Declared(names, ignore=(*ignore, *ignored))


def final_labels(
    section: DataSection, declared: Declared, scan: Callable[[Declared], tuple[Labels | None, list[str]]]
) -> tuple[Labels | None, list[str]]:
    """Return the labels of a data set, and notes on what was assumed.

    The recipe's word goes first, then the data set's, then what `scan` finds in the files.
    Raises RecipeError if the recipe's classes contradict each other.
    """
    if section.instances:
        # The file values are numbers of objects, so that of a class only the name is needed.
        names = [*(section.classes or {}), *declared.classes]
        name = names[0] if len(names) == 1 else "object"
        return Labels((name,), ((1,),), ignore=tuple(section.ignore), instances=True), []
    if section.threshold is not None:
        # A threshold makes one class; its name is the first that anybody gives.
        names = [*(section.classes or {}), *declared.classes, "foreground"]
        ignore, one = tuple(section.ignore), (names[0],)
        return Labels(one, ((1,),), section.regions, ignore=ignore, threshold=section.threshold), []
    if section.classes is not None:
        return _by_recipe(section, declared)
    if section.regions and not declared.classes:
        raise RecipeError("data.regions=true needs data.classes: name each region and its values")
    found, notes = scan(declared)
    if found is not None:
        return _ignoring(found, section), notes
    if 0 in {value for values in declared.classes.values() for value in values}:
        notes = [*notes, f"value 0 is the class '{declared.names[0]}', not background; data.classes can choose others"]
    return (_assemble(declared.classes, section, declared) if declared.classes else None), notes


def _by_recipe(section: DataSection, declared: Declared) -> tuple[Labels, list[str]]:
    wanted = {name: _values(value, name) for name, value in (section.classes or {}).items()}
    if not wanted:
        raise RecipeError("data.classes is empty; name at least one foreground class, or drop the key")
    # The numbers in these files have been mapped already; mapping them again would swap organs.
    if declared.fixed and set(wanted) <= set(declared.classes):
        values = {name: declared.classes[name] for name in wanted}
        changed = [name for name in wanted if values[name] != wanted[name]]
        note = "the files hold the published class numbers already; the values in data.classes are not applied"
        return _assemble(values, section, declared), [note] if changed else []
    return _assemble(wanted, section, declared), []


def _ignoring(found: Labels, section: DataSection) -> Labels:
    """Take the values that the recipe ignores out of the classes that the files showed."""
    kept = [
        (name, values)
        for name, values in zip(found.classes, found.values, strict=True)
        # A grey mask has no values of its own, so there is none to take out.
        if found.threshold is not None or not set(values) <= set(section.ignore)
    ]
    names, values = zip(*kept, strict=True) if kept else ((), ())
    return replace(found, classes=names, values=values, ignore=tuple(section.ignore), strict=section.strict)


def _assemble(classes: dict[str, tuple[int, ...]], section: DataSection, declared: Declared) -> Labels:
    ignore = tuple(section.ignore) or declared.ignored
    regions = section.regions or bool(declared.regions and section.classes is None)
    _agree(classes, ignore, regions)
    taken = {value for values in classes.values() for value in values} | set(ignore)
    # What the data set names and the recipe leaves out is not wanted, hence background, not an error.
    background = tuple(sorted(declared.values - taken))
    # Where 0 is a class and nobody says what the background is, whatever is left must be it.
    strict = section.strict and (0 not in taken or bool(background))
    return Labels(tuple(classes), tuple(classes.values()), regions, ignore=ignore, strict=strict, background=background)


def _agree(classes: dict[str, tuple[int, ...]], ignore: tuple[int, ...], regions: bool) -> None:
    if len(classes) > MAX_CLASSES:
        raise RecipeError(f"{len(classes)} classes; at most {MAX_CLASSES} are possible: join some in data.classes")
    owner: dict[int, str] = {}
    for name, values in classes.items():
        for value in values:
            if value in ignore:
                raise RecipeError(f"label value {value} is both class '{name}' and ignored; drop one of the two")
            if value in owner and not regions:
                raise RecipeError(
                    f"label value {value} is in both '{owner[value]}' and '{name}'; "
                    "give it to one of them, or set data.regions=true for overlapping classes"
                )
            owner[value] = name


def _values(value: LabelValue, name: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise DataError(f"class '{name}' has label value {value!r}; give a whole number or a list of them")
    return tuple(dict.fromkeys(values))


def _overlap(named: dict[str, tuple[int, ...]]) -> bool:
    every = [value for values in named.values() for value in values]
    return len(every) != len(set(every))

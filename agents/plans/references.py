"""References from one step's input to another step's output: `$step.field.0`, `$input.x`, `$item`, `$index`, `${...}` in a text.

Pure functions of JSON values. Knows neither steps nor runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shoal.errors import StepFailed

#: names that are no steps
INPUT: Final = "input"
ITEM: Final = "item"
INDEX: Final = "index"
RESERVED: Final = frozenset({INPUT, ITEM, INDEX})

_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
_PATH = rf"{_NAME}(?:\.(?:[A-Za-z0-9_-]+|\$index))*"
#: a place in a list; a longer number is none
_PLACE = re.compile(r"[0-9]{1,9}")
_WHOLE = re.compile(rf"\$({_PATH})")
_INSIDE = re.compile(rf"\$\$|\$\{{({_PATH})\}}")


@dataclass(frozen=True, slots=True)
class Reference:
    """`name`, then the keys, positions or `$index` that lead into its value."""

    name: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "$" + ".".join((self.name, *self.path))


def read_reference(text: str) -> Reference | None:
    """The reference that a whole text is; None where it is another text."""
    match = _WHOLE.fullmatch(text)
    return None if match is None else _parsed(match[1])


def _parsed(text: str) -> Reference:
    name, *path = text.split(".")
    return Reference(name, tuple(path))


def uses_element(reference: Reference) -> bool:
    """Whether it means something only within a step's `each`."""
    return reference.name in (ITEM, INDEX) or "$index" in reference.path


def references_in(value: Any) -> Iterator[Reference]:
    """Every reference in a JSON value, in order; keys of objects are no references."""
    if isinstance(value, str):
        whole = read_reference(value)
        if whole is not None:
            yield whole
            return
        for match in _INSIDE.finditer(value):
            if match[1]:
                yield _parsed(match[1])
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from references_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references_in(inner)


def resolve(value: Any, look_up: Callable[[str], Any], index: int | None = None) -> Any:
    """The value with its references replaced.

    Args:
        look_up: the value of a name; raises StepFailed where there is none.
        index: what `$index` is; None outside an `each`.

    Raises:
        StepFailed: a reference leads nowhere.
    """
    if isinstance(value, str):
        whole = read_reference(value)
        if whole is not None:
            return _follow(whole, look_up, index)
        return _INSIDE.sub(lambda match: _text_inside(match, look_up, index), value)
    if isinstance(value, Mapping):
        return {key: resolve(inner, look_up, index) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(inner, look_up, index) for inner in value]
    return value


def _text_inside(match: re.Match[str], look_up: Callable[[str], Any], index: int | None) -> str:
    if match[1] is None:
        return "$"
    found = _follow(_parsed(match[1]), look_up, index)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _follow(reference: Reference, look_up: Callable[[str], Any], index: int | None) -> Any:
    if reference.name == INDEX:
        if index is None or reference.path:
            raise StepFailed(
                f"{reference} has no value here.", remedy="`$index` is the position within a step's `each`."
            )
        return index
    value = look_up(reference.name)
    for key in reference.path:
        if key == "$index":
            if index is None:
                raise StepFailed(f"{reference} has no `$index` here.", remedy="Give the step an `each`.")
            key = str(index)
        value = _into(value, key, reference)
    return value


def _into(value: Any, key: str, reference: Reference) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(value, list) and _PLACE.fullmatch(key) and int(key) < len(value):
        return value[int(key)]
    what = f"what is no object or list but {type(value).__name__}"
    if isinstance(value, Mapping):
        what = "an object without it"
    elif isinstance(value, list):
        what = f"a list of {len(value)}"
    raise StepFailed(
        f"{reference} leads nowhere: `{key}` is looked for in {what}.", remedy="Mend the reference."
    )

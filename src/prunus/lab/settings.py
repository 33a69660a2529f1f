"""Settings as text: YAML without its surprises, and ``key=value`` overrides.

YAML 1.1, as PyYAML reads it, takes ``2:4`` for the number 124, ``1e-4`` for text, ``no`` for false, and the last of
two equal keys without a word. Here scalars are those of YAML 1.2's core schema in decimal, and a key comes once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prunus.extras import require

require("yaml", "reading settings")  # else the import below would fail without saying how to get it

import yaml  # noqa: E402

_TAG = "tag:yaml.org,2002:"

# Recipes have a few thousand characters; PyYAML takes seconds for a hundred thousand.
_LONGEST = 1 << 16

# With aliases written out, values and their characters may be so many together, or so many times the text's characters;
# without aliases they are at most twice as many.
_MOST_WRITTEN_OUT = 10_000
_TIMES_WRITTEN_OUT = 4

# tag -> what is written for it, and the characters that can begin with
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    """Reads mappings, lists, text and the scalars above, and no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared as PyYAML does
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in {*_SCALARS, "str", "seq", "map"}
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in mapping:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} comes twice", key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Quotes the text that `_Loader`, or a reader of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unicode's own line breaks are lost in any other style, since every one of them reads as a new line
        style = '"' if any(character in data for character in "\x85\u2028\u2029") else None
        return self.represent_scalar(_TAG + "str", data, style)


for _class in (_Loader, _Dumper):
    for _name, (_form, _first) in _SCALARS.items():
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_form})$"), _first)
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)
_Dumper.add_representer(str, _Dumper.represent_str)


def parse(text: str, origin: str) -> Any:
    """Return the value that a YAML text stands for; `origin` names it in errors.

    Raises:
        ValueError: the text is no YAML, holds a key twice, or something else than text, numbers, true, false, null,
            lists and mappings; it has more than 65,536 characters, or is several times as long when its
            aliases are written out.

    >>> parse("{pattern: 2:4, lr: 1e-4, seeds: [0, 1]}", "the example")
    {'pattern': '2:4', 'lr': 0.0001, 'seeds': [0, 1]}
    """
    if len(text) > _LONGEST:
        raise ValueError(f"{origin} has {len(text):,} characters; settings may have {_LONGEST:,}")
    try:
        tree = yaml.load(text, _Loader)  # a SafeLoader that knows even less
        _count(tree, max(_MOST_WRITTEN_OUT, _TIMES_WRITTEN_OUT * len(text)))
        return _unshared(tree)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{origin} is not valid YAML: {place}{problem}") from error
    except (yaml.YAMLError, ValueError, KeyError) as error:
        raise ValueError(f"{origin} is not valid YAML: {str(error).partition(chr(10))[0]}") from error
    except RecursionError as error:
        raise ValueError(f"{origin} is not valid YAML here: it is nested too deeply, or refers to itself") from error


def dump(tree: Mapping[str, Any]) -> str:
    """Return a mapping as YAML that `parse` reads back to an equal one."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def override(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return settings with some set anew.

    Args:
        tree: the settings; it is not changed.
        overrides: such as ``"prune.sparsity=0.9"``: names of groups and of the setting, and its value as YAML.

    Raises:
        ValueError: an override is not of this form, or leads through something that is no group.

    >>> override({"prune": {"sparsity": 0.2}}, ["prune.sparsity=0.9", "seeds=[0, 1]"])
    {'prune': {'sparsity': 0.9}, 'seeds': [0, 1]}
    """
    changed: dict[str, Any] = _unshared(tree)
    for setting in overrides:
        name, equals, text = setting.partition("=")
        *groups, last = name.strip().split(".")
        if not equals or not all((*groups, last)):
            raise ValueError(f"override {setting!r} is not of the form key=value, such as prune.sparsity=0.9")
        group = changed
        for depth, part in enumerate(groups):
            if group.get(part) is None:
                group[part] = {}
            if not isinstance(group[part], dict):
                path = ".".join(groups[: depth + 1])
                raise ValueError(f"override {setting!r} sets a part of {path}, which is no group but {group[part]!r}")
            group = group[part]
        group[last] = parse(text, f"the value in override {setting!r}")
    return changed


def _count(value: Any, most: int) -> int:
    """Return how many values and characters of texts there are in a value, with aliases written out.

    Raises:
        ValueError: there are more than `most`; no more than these are looked at.
    """
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    count = 1 + len(value) if isinstance(value, str) else 1
    for entry in inner:
        count += _count(entry, most - count)
    if count > most:
        raise ValueError(f"with its aliases written out it is over {_TIMES_WRITTEN_OUT} times as long")
    return count


def _unshared(value: Any) -> Any:
    """Return a copy in which what two aliases share is there twice, so that each can be changed by itself."""
    if isinstance(value, Mapping):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value

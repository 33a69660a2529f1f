"""Settings as text: a strict subset of YAML, and ``key=value`` overrides.

PyYAML follows YAML 1.1: it reads ``2:4`` as the number 124, ``1e-4`` as text, ``no`` as false, and of two equal keys
silently uses the last. Here scalars follow YAML 1.2's core schema, decimal only, and repeated keys are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prunus.extras import require

require("yaml", "reading settings")  # otherwise the import below would fail without naming the extra

import yaml  # noqa: E402

_TAG = "tag:yaml.org,2002:"

# The longest text. Recipes have a few thousand characters; PyYAML needs seconds for a hundred thousand.
_MAX_CHARACTERS = 1 << 16

# The limit for values and their characters after aliases are expanded: this number, or this many times the text's
# characters. Without aliases they are at most twice as many.
_MAX_EXPANDED = 10_000
_TIMES_EXPANDED = 4

# tag -> a regular expression for its values, and their possible first characters
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
    """Reads mappings without repeated keys, lists, text and the scalars above."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared as PyYAML does
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in {*_SCALARS, "str", "seq", "map"}
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key, start = self.construct_object(key_node, deep=True), key_node.start_mark
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", start)
            if key in mapping:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} appears twice", start)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` or YAML 1.1 would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # in other styles, Unicode's line breaks would be read as a new line
        style = '"' if any(character in data for character in "\x85\u2028\u2029") else None
        return self.represent_scalar(_TAG + "str", data, style)


for _class in (_Loader, _Dumper):
    for _name, (_form, _first) in _SCALARS.items():
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_form})$"), _first)
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)
_Dumper.add_representer(str, _Dumper.represent_str)


def parse(text: str, origin: str) -> Any:
    """Return the value of a YAML text; `origin` names it in errors.

    Raises:
        ValueError: the text is not YAML, repeats a key, or holds anything but text, numbers, true, false, null, lists
            and mappings; it has more than 65,536 characters, or its aliases expand to several times its length.

    >>> parse("{pattern: 2:4, lr: 1e-4, seeds: [0, 1]}", "the example")
    {'pattern': '2:4', 'lr': 0.0001, 'seeds': [0, 1]}
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"{origin} has {len(text):,} characters; settings may have {_MAX_CHARACTERS:,}")
    try:
        tree = yaml.load(text, _Loader)  # a SafeLoader with fewer types
        _count(tree, max(_MAX_EXPANDED, _TIMES_EXPANDED * len(text)))
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
    """Return a mapping as YAML, from which `parse` makes an equal one."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def override(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return settings with overrides.

    Args:
        tree: the settings; it is not changed.
        overrides: such as ``"prune.sparsity=0.9"``: names of groups and of the setting, and its value as YAML.

    Raises:
        ValueError: an override is not of this form, or goes through a setting that is not a group.

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
                value = group[part]
                raise ValueError(f"override {setting!r} sets a part of {path}, which is not a group but {value!r}")
            group = group[part]
        group[last] = parse(text, f"the value in override {setting!r}")
    return changed


def _count(value: Any, limit: int) -> int:
    """Return the number of values and characters of texts in a value, after aliases are expanded.

    Raises:
        ValueError: there are more than `limit`; counting stops there.
    """
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    count = 1 + len(value) if isinstance(value, str) else 1
    for entry in inner:
        count += _count(entry, limit - count)
    if count > limit:
        raise ValueError(f"with its aliases written out it is over {_TIMES_EXPANDED} times as long")
    return count


def _unshared(value: Any) -> Any:
    """Return a copy in which aliases share nothing, so that each can be changed by itself."""
    if isinstance(value, Mapping):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value

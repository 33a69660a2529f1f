"""`prunus ls`: what there is to choose from, read off the sources, so that PyTorch need not be imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import resources

from prunus.cli import terminal
from prunus.cli.options import Json
from prunus.registry import unknown_name

# kind -> where its entries are, and the functions that register them; recipes are YAML files
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "recipes": ("lab/recipes/*.yaml", ()),
    "models": ("lab/models/*.py", ("model",)),
    "data": ("lab/data/*.py", ("dataset",)),
    "criteria": ("pruning/criteria.py", ("criterion", "CRITERIA.register")),
    "patterns": ("pruning/patterns.py", ("pattern",)),
    "scopes": ("pruning/scopes.py", ("SCOPES.register",)),
    "schedules": ("pruning/schedules.py", ("SCHEDULES.register",)),
}


def ls(kind: str | None = None, /, *, json: Json = None) -> None:
    """List what there is to choose from.

    For example:
      prunus ls
      prunus ls criteria

    Args:
        kind: recipes, models, data, criteria, patterns, scopes or schedules; without it, all of them.
    """
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    lists = {name: entries(name) for name in KINDS if kind in (None, name)}
    if json is not None:
        terminal.write_json(lists if kind is None else lists[kind], json)
    if str(json) != "-":
        terminal.show_lists(lists)


def entries(kind: str) -> dict[str, str]:
    """Return name -> what it is, in the order of the names.

    >>> list(entries("scopes"))
    ['erk', 'global', 'least_error', 'uniform']
    """
    pattern, functions = KINDS[kind]
    names: dict[str, str] = {}
    with resources.as_file(resources.files("prunus")) as package:
        for path in package.glob(pattern):
            source = path.read_text(encoding="utf-8")
            if path.suffix == ".yaml":
                names[path.stem] = "".join(re.findall("^description: (.*)$", source, re.MULTILINE))
            else:
                names |= registered(source, functions)
    return dict(sorted(names.items()))


def registered(source: str, functions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the names that a module registers, with the first paragraph of what is documented there.

    That is the decorated function; where it has no docstring, the class that it returns; or the class of an object that
    is registered without a decorator.

    Args:
        source: of the module.
        functions: what registers, as the module writes it, such as ``("SCOPES.register",)``.
    """
    module = ast.parse(source)
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    for node in module.body:
        match node:
            case ast.FunctionDef(decorator_list=calls, returns=returned):
                documented = node if ast.get_docstring(node) else classes.get(ast.unparse(returned) if returned else "")
            case ast.Expr(value=ast.Call(func=call, args=[ast.Call(func=ast.Name(id=name))])):
                calls, documented = [call], classes.get(name)
            case _:
                continue
        for call in calls:
            match call:
                case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_], keywords=keywords) if (
                    ast.unparse(function) in functions
                ):
                    yield name, _summary(documented) + _examples(name, keywords)


def _summary(documented: ast.FunctionDef | ast.ClassDef | None) -> str:
    text = (documented and ast.get_docstring(documented)) or ""
    return " ".join(text.partition("\n\n")[0].replace("`", "").split())


def _examples(name: str, keywords: list[ast.keyword]) -> str:
    """Return how a family of patterns is written, where that is not just its name."""
    examples = next((ast.literal_eval(keyword.value) for keyword in keywords if keyword.arg == "examples"), (name,))
    return "" if examples == (name,) else f" Such as {', '.join(examples)}."

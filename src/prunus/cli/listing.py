"""What there is to choose from, read off the sources: the names are known without importing PyTorch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

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


def entries(kind: str) -> dict[str, str]:
    """Return name -> what it is, in the order of the names.

    Raises:
        MissingExtraError: recipes are asked for, and the package that reads them is not installed.

    >>> list(entries("scopes"))
    ['erk', 'global', 'uniform']
    """
    pattern, registering = KINDS[kind]
    read = of_recipe if kind == "recipes" else lambda path: registered(path.read_text(encoding="utf-8"), registering)
    with resources.as_file(resources.files("prunus")) as package:
        return dict(sorted(entry for path in package.glob(pattern) for entry in read(path)))


def of_recipe(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of a recipe and its description."""
    from prunus.lab import settings

    recipe = settings.parse(path.read_text(encoding="utf-8"), path.name)
    yield path.stem, recipe["description"]


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
            case ast.FunctionDef(decorator_list=decorators, returns=returned):
                calls = decorators
                documented = node if ast.get_docstring(node) else classes.get(ast.unparse(returned) if returned else "")
            case ast.Expr(value=ast.Call(func=call, args=[ast.Call(func=ast.Name(id=made))])):
                calls, documented = [call], classes.get(made)
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

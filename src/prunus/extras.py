"""Optional packages, imported where they are used; the error for a missing one names the extra that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

# module -> the extra of this package that installs it
EXTRA_OF = {
    "lightning_fabric": "train",
    "tensorboard": "train",
    "pydantic": "train",
    "yaml": "train",
    "filelock": "train",
    "mlxtend": "data",
    "sklearn": "data",
    "zstandard": "measure",
    "constriction": "pack",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "executorch": "executorch",
    "openvino": "openvino",
    "ziglang": "compile",
    "jinja2": "report",
    "plotly": "report",
    "rich": "report",
    "cyclopts": "cli",
}


class MissingExtraError(ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional module; if it is missing, say what needs it and how to install it.

    Args:
        module: the module's full name, such as ``"plotly.graph_objects"``.
        purpose: what the caller wants it for, in a few words: ``"drawing the report"``.

    Raises:
        MissingExtraError: the package that holds the module is not installed.

    >>> require("math", "an example").floor(2.5)
    2
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # the package is installed but incomplete: the original message says more
        extra = EXTRA_OF.get(package, "all")
        raise MissingExtraError(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'prunus[{extra}]'"
        ) from error

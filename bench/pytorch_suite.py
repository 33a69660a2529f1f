"""Run PyTorch's own test-suite for torch.nn.utils.prune against prunus.torch_prune.

    python bench/pytorch_suite.py PATH/TO/test_pruning.py

The file is test/nn/test_pruning.py of PyTorch's repository; it needs the package expecttest. While it runs,
`torch.nn.utils.prune` is prunus.torch_prune, in sys.modules and as the attribute of torch.nn.utils, so that
every import of it, and every name that a test replaces by its dotted path, is ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import unittest
from pathlib import Path
from types import ModuleType

import torch.nn.utils

from prunus import torch_prune


def load(path: Path) -> ModuleType:
    """Import a file as a module, with prunus in the place of torch.nn.utils.prune."""
    if not path.is_file():
        raise SystemExit(f"no file at {str(path)!r}; expected test/nn/test_pruning.py of PyTorch's repository")
    sys.modules["torch.nn.utils.prune"] = torch_prune
    torch.nn.utils.prune = torch_prune
    spec = importlib.util.spec_from_file_location("test_pruning", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise SystemExit(f"the suite needs {error.name}; install it with: pip install {error.name}") from error
    return module


def main() -> int:
    """Run the suite; return 0 if all of it passed and it did run against prunus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="PyTorch's test/nn/test_pruning.py")
    module = load(parser.parse_args().path)
    if module.prune is not torch_prune:
        raise SystemExit("the suite's `prune` is not prunus.torch_prune: the swap failed, nothing was run")
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    print(
        f"PyTorch {torch.__version__}: {result.testsRun} tests of {module.__file__} ran against prunus.torch_prune: "
        f"{passed} passed, {failed} failed, {len(result.skipped)} skipped"
    )
    return 0 if result.wasSuccessful() and passed else 1


if __name__ == "__main__":
    sys.exit(main())

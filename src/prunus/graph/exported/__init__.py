"""Models as graphs: a module that runs one, and a document that holds one.

program = torch.export.export(model.eval(), args, strict=False)
module = ExportedModule.from_program(program, why="its forward hard-codes a size")
document, tensors = module.to_document(), module.tensors()
again = ExportedModule.from_document(document, tensors)
"""

from __future__ import annotations

from prunus.graph.exported.arguments import DocumentError
from prunus.graph.exported.module import ExportedModule

__all__ = ["DocumentError", "ExportedModule"]

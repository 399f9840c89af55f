"""Lets torchvision be imported beside a CPU build of torch, whose ABI its compiled operators do not have.

Python imports this by itself when the folder is on PYTHONPATH. Nothing happens until torchvision is imported; then the
two operators that it describes while it is imported are declared, without a body: who calls one is told so by torch.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Imported right after torchvision has tried to load its own operators.
_DESCRIPTIONS = "torchvision._meta_registrations"
_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _OperatorDeclarations(MetaPathFinder):
    """Finds nothing: it is asked at the moment at which the operators are needed."""

    library: object = None  # torch forgets the declarations with the library that made them

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == _DESCRIPTIONS and self.library is None:
            self.library = _declare()
        return None


def _declare() -> object:
    """Declare the operators that no compiled library has brought; returns what keeps them alive."""
    import torch  # noqa: PLC0415  (only in processes that import torchvision, for it takes seconds)

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SIGNATURE)
    return library


sys.meta_path.insert(0, _OperatorDeclarations())

"""Growth of an ExportedProgram, before whatever compiles or converts it."""

from __future__ import annotations

from typing import Any

from torch.export import ExportedProgram

import meristem
from meristem.integrations.growth import Growth, Sizes


def grow_program(
    program: ExportedProgram,
    sizes_or_plan: Sizes | meristem.Plan,
    *,
    verify: bool = False,
    **options: Any,
) -> ExportedProgram:
    """A larger program that computes the same function; other arguments as of ``meristem.grow``.

    The given program stays as it is and shares no storage with the result, which is functional (what
    ``run_decompositions({})`` gives) and has the inputs, outputs and dynamic shapes of the given one. It
    goes to ``torch.onnx.export``, ``torch._inductor.aoti_compile_and_package``, ExecuTorch's ``to_edge``
    or ``torch.export.save``: growth stands before them, for what they give has its sizes fixed.

    Raises what ``meristem.grow`` raises, and NotPreserved where ``verify`` finds a difference.
    """
    if not isinstance(program, ExportedProgram):
        raise meristem.CarrierError(
            f"grow_program takes a torch.export.ExportedProgram, not {type(program).__name__}; "
            "GrowGraphModule takes a GraphModule, and meristem.trace any module"
        )
    grown = Growth(sizes_or_plan, verify, options).carried_out(meristem.load(program))
    return grown.exported_program  # type: ignore[no-any-return]


__all__ = ["grow_program"]

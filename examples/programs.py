"""Growth before whatever takes an ExportedProgram: torch.onnx, AOTInductor, ExecuTorch.

    python examples/programs.py [onnx] [aoti] [executorch]

Without words it is torch.onnx. AOTInductor needs a C++ compiler, ExecuTorch `pip install executorch`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from meristem.demo_model import Decoder, Sizes
from meristem.integrations import grow_program

# float32; the runtimes add the same numbers in another order.
TOLERANCE = 1e-4


def with_onnx(program: ExportedProgram, tokens: Tensor, folder: Path) -> Tensor:
    import onnxruntime

    path = folder / "grown.onnx"
    written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    written.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: tokens.numpy()})[0])


def with_aoti(program: ExportedProgram, tokens: Tensor, folder: Path) -> Tensor:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    path = aoti_compile_and_package(program, package_path=str(folder / "grown.pt2"))
    return aoti_load_package(path)(tokens)


def with_executorch(program: ExportedProgram, tokens: Tensor, folder: Path) -> Tensor:
    from executorch.exir import to_edge
    from executorch.runtime import Runtime

    path = folder / "grown.pte"
    path.write_bytes(to_edge(program).to_executorch().buffer)
    return Runtime.get().load_program(path).load_method("forward").execute([tokens])[0]


TARGETS: dict[str, Callable[[ExportedProgram, Tensor, Path], Tensor]] = {
    "onnx": with_onnx,
    "aoti": with_aoti,
    "executorch": with_executorch,
}


def main(*targets: str) -> None:
    torch.manual_seed(0)
    module, tokens = Decoder(Sizes()).eval(), torch.randint(0, 256, (2, 12))
    program = torch.export.export(module, (tokens,))
    larger = grow_program(program, {"mlp": "x2", "heads": "+2", "layers": "+1"}, verify=True)
    sizes = [sum(p.numel() for p in e.parameters()) for e in (program, larger)]
    print(f"{sizes[0]:,} -> {sizes[1]:,} parameters")
    for target in targets or ("onnx",):
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            found = TARGETS[target](larger, tokens, Path(folder))
            error = float((found - module(tokens)).abs().max())
        print(f"{target}: largest difference {error:.1e}")
        assert error < TOLERANCE


if __name__ == "__main__":
    main(*sys.argv[1:])

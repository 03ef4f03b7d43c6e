"""A growth and the file that it was written into: the file is read again, and that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meristem.model import Model
from meristem.verify.report import Measure, Report, joined

_OWN = {"onnx": ".onnx", "torch": ".pt2"}


class _Exported(Model):
    """A torch model whose ONNX file is there already: who asks for one is given that."""

    def __init__(self, grown: Model, file: Path) -> None:
        vars(self).update(vars(grown))
        self.file = file

    def save(self, path: str | Path) -> Path:
        return self.file if Path(path).suffix == self.file.suffix else super().save(path)


def verify_written(model: Model, grown: Model, path: Path) -> Report:
    """Measure ``grown``, which ``model`` grew into, as it stands in ``path``.

    A file of the model's own format is read again and stands for it on every level. What a torch model is
    exported to has no plan's carrier: its file is what is deployed. Weights alone (.safetensors) are no
    model: they have to be those of the model that is measured, bit for bit.
    """
    import meristem

    if path.suffix == _OWN[grown.side.name]:
        stored = meristem.load(path)
        stored.plan, stored.others = grown.plan, grown.others
        return meristem.verify(model, stored)  # type: ignore[no-any-return]
    if path.suffix == ".onnx":
        return meristem.verify(model, _Exported(grown, path))  # type: ignore[no-any-return]
    report: Report = meristem.verify(model, grown)
    wrong = _other_weights(grown.state_dict(), path)
    same = [] if wrong else [Measure(f"stored tensors of {path.name}", 0.0, 0.0)]
    levels = report.levels | {"algebra": joined(report.levels["algebra"], same, wrong)}
    return Report(levels)


def _other_weights(own: dict[str, Any], path: Path) -> list[str]:
    """What a file of weights has otherwise than the model, to the bit."""
    import torch
    from safetensors.torch import load_file

    def same(a: Any, b: Any) -> bool:
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        pair = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        return torch.equal(*pair)

    held = load_file(path)
    odd = sorted(own.keys() ^ held.keys())
    wrong = [n for n in own if n in held and not same(own[n], held[n])]
    return [f"{path.name} and the model do not both have {n}" for n in odd] + [
        f"{path.name} holds other numbers for {n} than the model" for n in wrong
    ]


__all__ = ["verify_written"]

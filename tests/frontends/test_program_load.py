"""Loading programs: what they still know, and files that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meristem.backends.torch_files import save_program
from meristem.frontends.program_load import load_program
from meristem.rewrite.errors import CarrierError
from tests.backends.torch_models import run, same, traced
from tests.zoo import build, dynamic_shapes


def test_a_program_of_torch_says_what_it_lost() -> None:
    module, args, kwargs = build("bert")
    program = torch.export.export(
        module, args, kwargs, dynamic_shapes=dynamic_shapes("bert"), strict=False
    )
    nodes = [(n.name, n.target, dict(n.meta)) for n in program.graph.nodes]
    carrier = load_program(program)
    assert list(carrier.dropouts.values()) == [0.1] * 5
    assert len(carrier.lost) == 2
    assert "noise" in carrier.lost[0]
    assert "2 attentions" in carrier.lost[1]
    assert same(run(carrier.program.module(), args, kwargs), run(program.module(), args, kwargs))
    assert [(n.name, n.target, n.meta.keys()) for n in program.graph.nodes] == [
        (name, target, meta.keys()) for name, target, meta in nodes
    ]


def test_a_functional_program_has_no_dropouts_left() -> None:
    module, args, kwargs = build("bert")
    program = torch.export.export(module, args, kwargs, strict=False).run_decompositions({})
    carrier = load_program(program)
    assert not carrier.dropouts
    assert carrier.lost[-1] == "dropouts: none is in the program"


@pytest.mark.full
def test_our_own_file_loses_no_dropout(tmp_path: Path) -> None:
    path = save_program(traced("bert"), tmp_path / "bert.pt2")
    carrier = load_program(path)
    assert carrier.dropouts == traced("bert").dropouts
    assert [entry for entry in carrier.lost if "dropout" in entry] == []
    assert load_program(save_program(carrier, path)).dropouts == carrier.dropouts


def test_a_class_that_is_not_known_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_program(traced("bert"), tmp_path / "bert.pt2")
    known = torch.utils._pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE
    (name,) = (n for n in known if n.endswith(".MaskedLMOutput"))
    monkeypatch.delitem(known, name)  # its module is imported, and does not register it again
    with pytest.raises(CarrierError, match=rf"gives a {name}, which torch does not know here"):
        load_program(path)


@pytest.mark.full
def test_what_defines_a_class_is_imported(tmp_path: Path) -> None:
    path = save_program(traced("bert"), tmp_path / "bert.pt2")
    code = f"import meristem; print(meristem.load({str(path)!r}).parameters)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = save_program(traced("bert"), tmp_path / "whole.pt2").read_bytes()
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(whole[: len(whole) // 2])
    other = tmp_path / "other.pt2"
    other.write_bytes(b"not a program")
    for path in (cut, other):
        with pytest.raises(
            CarrierError, match=r"cannot be read as a torch program.*write it again"
        ):
            load_program(path)
    with pytest.raises(CarrierError, match="there is no file") as caught:
        load_program(tmp_path / "missing.pt2")
    assert caught.value.path.endswith("missing.pt2")

"""The page of ``make test-gpu``: its first line says where it ran."""

from meristem.verify.runtimes import CPU
from tests.gpu.__main__ import headline, kinds, table


def test_the_first_line_says_that_there_was_no_card():
    lines = headline(CPU, "ONNX Runtime does not run on CUDAExecutionProvider here: no; install it")
    assert "CPU provider: no accelerator here, not yet run on CUDA" in lines[0]
    assert lines[-1].endswith("here: no.")
    assert "CUDAExecutionProvider" in headline("CUDAExecutionProvider", "")[0]


def test_tables():
    rows = table("T", ["a", "b"], [["1", kinds({"Add": 2, "Mul": 5})]])
    assert rows[-1] == "| 1 | 5 Mul, 2 Add |"

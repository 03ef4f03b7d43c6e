"""Verification accepts every correct growth, in float32, float16 and bfloat16."""

import pytest

import meristem
from tests.verify.families import FAMILIES, grown_of

QUICK = ("two decoders", "convolutions")
DTYPES = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in FAMILIES]
)
def test_a_correct_growth_is_accepted(name):
    model, grown = grown_of(name)
    report = meristem.verify(model, grown, runtime=["onnxruntime", "torch"], dtypes=DTYPES)
    found = report.levels["deployment"]
    assert report.levels["algebra"].word in ("bit-exact", "noise-floor")
    assert found.word in ("bit-exact", "noise-floor"), str(report)
    settings = " ".join(m.what for m in found.measures)
    for dtype in DTYPES:
        assert f"torch cpu, {dtype}" in settings
    assert "ONNX Runtime CPU, optimisations all, float16" in settings
    assert any("ONNX Runtime CPU, bfloat16: not checked" in n for n in found.notes)

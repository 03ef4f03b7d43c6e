"""Runtimes, optimisation levels, float types: what each setting runs, and what is refused."""

import numpy as np
import onnx
import pytest
import torch

import meristem
from meristem.rewrite.errors import CarrierError, RuntimeUnavailable
from meristem.verification_settings import open_all, request
from meristem.verify.runtimes import RUNTIMES, Session
from meristem.verify.runtimes.compiled import compiler
from meristem.verify.runtimes.providers import CPU, provider_names, requested
from meristem.verify.runtimes.session import prove
from tests.verify.models import mixer, onnx_file, spoil


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    path = onnx_file(tmp_path_factory.mktemp("pair") / "m.onnx")
    model = meristem.load(path)
    return model, meristem.grow(model, {"mlp": "x2", "hidden": "x1.5"})


def test_every_setting_of_a_file_and_where_its_nodes_ran(pair):
    report = meristem.verify(
        *pair,
        runtime=["onnxruntime", "onnx.reference"],
        dtypes=["float32", "float16", "bfloat16"],
        optimizations=["off", "basic", "all"],
    )
    assert report.ok, str(report)
    found = report.levels["deployment"]
    settings = {m.what.partition("(")[2][:-1] for m in found.measures}
    assert settings == {
        *(f"ONNX Runtime CPU, optimisations {o}, {d}"
          for o in ("off", "basic", "all") for d in ("float32", "float16")),
        *(f"onnx.reference, {d}" for d in ("float32", "float16", "bfloat16")),
    }  # fmt: skip
    refused = [n for n in found.notes if "not checked" in n]
    assert len(refused) == 1
    assert "ONNX Runtime CPU, bfloat16: not checked" in refused[0]
    assert "NOT_IMPLEMENTED" in refused[0]
    off = next(p for p in found.placement if "off, float32" in p.setting and p.model == "grown")
    assert off.provider == CPU
    assert off.operators["MatMul"] == 4
    assert off.nodes == sum(off.operators.values()) == 8
    apart = {(d.first, d.second) for d in found.differences}
    assert ("ONNX Runtime CPU, optimisations off, float32", "onnx.reference, float32") in apart
    assert not any("float16" in a and "float32" in b for a, b in apart)
    assert report.to_data()["levels"]["deployment"]["placement"][0]["provider"] == CPU


def test_a_type_that_nothing_asked_for_can_run_is_served_by_another_runtime(pair):
    report = meristem.verify(*pair, dtypes="bfloat16")
    found = report.levels["deployment"]
    assert report.ok
    assert [m.what for m in found.measures] == ["y (onnx.reference, bfloat16)"]
    (said,) = [n for n in found.notes if "not checked" in n]
    assert said.startswith("ONNX Runtime CPU, bfloat16")  # nobody asked for torch
    assert said.endswith("; onnx.reference serves instead")


@pytest.fixture
def opaque(tmp_path):
    """Two files with an operator that float64 has not, whose biases are a thousandth apart."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])
    node = onnx.helper.make_node("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft")
    domains = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    for name, bias in (("a", 0.1), ("b", 0.101)):
        weight = onnx.numpy_helper.from_array(np.full(4, bias, np.float32), "b")
        graph = onnx.helper.make_graph([node], "g", [x], [y], [weight])
        model = onnx.helper.make_model(graph, opset_imports=domains, ir_version=10)
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


@pytest.mark.parametrize("dtypes", [["float16", "float32"], ["float32", "float16"]])
def test_without_float64_the_widest_type_is_the_reference(opaque, dtypes):
    found = meristem.verify(*opaque, dtypes=dtypes).levels["deployment"]
    assert found.word == "differs"
    assert "float32" in found.reason
    limits = [m.limit for m in found.measures if "float32" in m.what]
    assert max(limits) < 1e-4
    assert meristem.verify(opaque[0], opaque[0], dtypes=dtypes).ok


def test_without_float64_a_copy_is_measured_against_the_models_own_type(opaque):
    found = meristem.verify(opaque[0], opaque[0], dtypes="float16").levels["deployment"]
    assert found.word == "bit-exact"
    assert all(s.own > 0 for s in found.statistics)


def test_torch_serves_its_own_models():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    report = meristem.verify(model, grown, runtime="torch", dtypes=["float16", "bfloat16"])
    assert report.ok, str(report)
    widths = [m.limit for m in report.levels["deployment"].measures]
    assert all(0 < w < 0.05 for w in widths)  # of outputs of about one


def test_a_broken_copy_differs_even_in_bfloat16():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    spoil(grown, "down.weight", 0.5)
    grown.plan = None
    report = meristem.verify(model, grown, runtime="torch", dtypes="bfloat16")
    assert report.levels["deployment"].word == "differs"


def test_a_thousandth_is_caught_by_the_stored_weights_whatever_the_type():
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    spoil(grown, "down.weight", 1e-3)
    report = meristem.verify(model, grown, runtime="torch", dtypes="bfloat16")
    assert report.levels["algebra"].word == "differs"
    assert "down.weight" in report.levels["algebra"].reason


def test_bound_inputs_and_outputs_give_the_same(tmp_path):
    path = onnx_file(tmp_path / "m.onnx")
    sample = meristem_sample({"x": np.ones((3, 6), np.float32)})
    plain, bound = (Session(path, binding=b)(sample) for b in (False, True))
    assert np.array_equal(plain[0], bound[0])


def test_bfloat16_crosses_the_binding_without_a_type_of_numpy(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.BFLOAT16, ["n"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, ["n"])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, tmp_path / "b.onnx")
    session = Session(tmp_path / "b.onnx")
    assert session.binding
    values = np.array([1.5, -3.0, 2.0**-100, np.inf], np.float32)
    assert np.array_equal(session(meristem_sample({"x": values}))[0], values)


def meristem_sample(arrays):
    from meristem.verify.inputs import Sample

    return Sample("one", arrays)


def test_names_of_providers():
    names = provider_names(["cpu", "openvino", "dml", "tensorrt", "VitisAIExecutionProvider"])
    assert [n.removesuffix("ExecutionProvider") for n in names] == [
        "CPU", "OpenVINO", "Dml", "Tensorrt", "VitisAI",
    ]  # fmt: skip


class Build:
    """A build of ONNX Runtime that has these providers."""

    @staticmethod
    def get_available_providers():
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]


def test_what_a_session_is_asked_for(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    cuda = requested(Build, "CUDAExecutionProvider")
    assert cuda[0][1]["use_tf32"] == 0
    assert cuda[1] == CPU
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    first, second, last = requested(Build, "TensorrtExecutionProvider")
    assert (first, second[0], last) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU)
    import os

    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    with pytest.raises(RuntimeUnavailable, match="this build has"):
        requested(Build, "OpenVINOExecutionProvider")


def test_a_provider_that_silently_fell_back(tmp_path, monkeypatch):
    """The session says that it has the provider; the profile of a run says that nothing ran there."""
    path = onnx_file(tmp_path / "m.onnx")
    session = Session(path, profile=tmp_path)
    session(meristem_sample({"x": np.ones((3, 6), np.float32)}))
    ran = session.placement("s", "grown")
    prove(CPU, ran)
    with pytest.raises(RuntimeUnavailable, match=r"no node of the model ran on it \(\d on CPU"):
        prove("CUDAExecutionProvider", ran)
    session.provider = "DmlExecutionProvider"
    with pytest.raises(RuntimeUnavailable, match="no node of the model ran"):
        session.placement("s", "grown")


def test_words_that_are_not_known(pair):
    with pytest.raises(RuntimeUnavailable, match="choose from onnxruntime, torch"):
        meristem.verify(*pair, runtime=["onnxruntime", "tvm"])
    with pytest.raises(RuntimeUnavailable, match="choose from float32"):
        meristem.verify(*pair, dtypes=["int8"])
    with pytest.raises(RuntimeUnavailable, match="choose from off"):
        meristem.verify(*pair, optimizations="most")
    with pytest.raises(RuntimeUnavailable, match="no runtime is given"):
        meristem.verify(*pair, runtime=[])


def test_words_that_are_none(pair):
    for name, given in (
        ("providers", [("CPUExecutionProvider", {})]),
        ("dtypes", np.float16),
        ("optimizations", 3),
        ("runtime", [None]),
    ):
        with pytest.raises(RuntimeUnavailable, match=f"{name}=.* is neither a word nor a list"):
            meristem.verify(*pair, **{name: given})


def test_what_no_runtime_heeds_is_refused(pair):
    with pytest.raises(RuntimeUnavailable, match=r"onnx\.reference runs nowhere but in numpy"):
        meristem.verify(*pair, runtime="onnx.reference", providers="cuda")
    with pytest.raises(
        RuntimeUnavailable, match=r"torch has none to choose from.* name onnxruntime"
    ):
        meristem.verify(*pair, runtime="torch", optimizations="off")
    request(["onnx.reference", "onnxruntime"], "cuda", None, "off")  # one of the two does
    request("onnx.reference", "cpu", None, None)


class Compiled:
    """What stands for a compiled package, where nothing is compiled."""

    def __init__(self, path, inputs, outputs):
        self.outputs = outputs

    def __call__(self, sample):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"providers": "cuda"}, "providers= does not apply: .* compiled package"),
        ({"runtime": "onnx.reference"}, "the other model is run in onnxruntime"),
        ({"dtypes": "float16"}, "it has the types that it was compiled with"),
        ({"layers": True}, "no values on the way"),
    ],
)
def test_a_package_has_no_choice_of_settings(pair, monkeypatch, tmp_path, given, said):
    from meristem import verification_package

    path = tmp_path / "package.pt2"
    monkeypatch.setattr(verification_package, "_is", lambda source: source == path)
    monkeypatch.setattr(verification_package, "Package", Compiled)
    for sides in ((pair[0], path), (path, pair[0])):
        with pytest.raises(RuntimeUnavailable, match=said):
            meristem.verify(*sides, **given)


def test_levels_of_the_model_beside_a_package(pair, monkeypatch, tmp_path):
    """A file has levels; torch has none, and refuses them."""
    from meristem import verification_package

    path = tmp_path / "package.pt2"
    monkeypatch.setattr(verification_package, "_is", lambda source: source == path)
    monkeypatch.setattr(verification_package, "Package", Compiled)
    report = meristem.verify(pair[0], path, optimizations=["off", "basic"])
    said = str(report)
    assert "optimisations off and the package" in said
    assert "optimisations basic and the package" in said
    with pytest.raises(RuntimeUnavailable, match="which has no levels"):
        meristem.verify(mixer(), path, optimizations="off")


def test_a_runtime_that_is_not_installed(pair, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime cannot be imported.*install"):
        meristem.verify(*pair)


def test_a_compiler_that_is_not_installed():
    from torch._inductor import config

    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(RuntimeUnavailable, match=r"no C\+\+ compiler; install a C"),
    ):
        meristem.verify(model, grown, runtime="aoti")


class Files:
    """A model that is a file."""

    def __init__(self, path):
        self.path, self.folder = path, path.parent

    def file(self, dtype):
        return self.path


def test_only_the_grown_model_is_refused(tmp_path):
    """The original runs: what a runtime says against the grown one is a difference."""
    good, broken = onnx_file(tmp_path / "m.onnx"), tmp_path / "g.onnx"
    model = onnx.load(good)
    model.graph.node[0].op_type = "MatMulOfNobody"
    onnx.save(model, broken)
    wanted = request(["onnxruntime", "onnx.reference"], None, None, "off")
    opened = open_all(Files(good), Files(broken), wanted)
    assert not opened.settings
    assert all("the grown model is refused" in f for f in opened.failures)
    assert len(opened.failures) == 2
    opened = open_all(Files(broken), Files(good), wanted)
    assert not opened.failures
    assert len(opened.refused) == 2
    assert all("not checked" in r for r in opened.refused)


def test_a_setting_in_which_nothing_runs_is_not_checked(monkeypatch):
    """torch.compile compiles on the first run: what it refuses shows only then."""
    from meristem.verify.runtimes import compiled

    def refuses(*args, **kwargs):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(compiled, "compiler", lambda name: None)
    monkeypatch.setattr(compiled.torch, "compile", lambda module, **options: refuses)
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x2"})
    report = meristem.verify(model, grown, runtime=["torch", "torch.compile"])
    found = report.levels["deployment"]
    assert found.reason == "torch cpu"
    assert found.notes[0].startswith("torch.compile cpu: not checked")
    assert any("no such kernel" in n for n in found.notes)
    report = meristem.verify(model, grown, runtime="torch.compile")
    assert report.levels["deployment"].word == "not checked"


def test_every_row_says_what_it_takes_and_needs():
    assert {r.takes for r in RUNTIMES.values()} == {"file", "module"}
    assert all(r.install for r in RUNTIMES.values())


@pytest.mark.full
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_compilers(dtype):
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x1.5", "hidden": "x1.5"})
    torch._dynamo.reset()
    names = ["torch", "torch.compile", "aoti"]
    report = meristem.verify(model, grown, runtime=names, dtypes=dtype)
    assert report.ok, str(report)
    assert len(report.levels["deployment"].measures) == 3, str(report)
    assert len({(d.first, d.second) for d in report.levels["deployment"].differences}) == 3


@pytest.mark.full
def test_a_compiled_package_on_either_side(tmp_path):
    torch.manual_seed(0)
    model = mixer()
    grown = meristem.grow(model, {"mlp": "x1.5"})
    package = tmp_path / "grown.pt2"
    compiler("aoti")  # imports what torch deprecates of itself
    torch._inductor.aoti_compile_and_package(grown.exported_program, package_path=str(package))
    report = meristem.verify(model, package)
    assert report.ok, str(report)
    assert report.levels["algebra"].word == "not checked"
    assert "package grown.pt2" in report.levels["deployment"].reason
    assert meristem.verify(package, model).ok
    with pytest.raises(CarrierError, match="both compiled packages"):
        meristem.verify(package, package)
    spoil(model, "down.weight", 0.1)
    assert meristem.verify(model, package).levels["deployment"].word == "differs"

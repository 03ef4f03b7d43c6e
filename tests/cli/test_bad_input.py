"""Bad input: one clear message on standard error, exit code 2, nothing written or overwritten."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import meristem
from tests.cli.conftest import (
    HIDDEN,
    INNER,
    mlp_model,
    mlp_nodes,
    model,
    node,
    refused,
    run,
    weight,
)


@pytest.fixture(autouse=True)
def nothing_written(tmp_path, request):
    """Whatever a refused command was given to write does not appear."""
    yield
    left = {p.name for p in tmp_path.rglob("*") if p.name.startswith((".", "out"))}
    assert left <= getattr(request.node, "kept", set())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.onnx"


# -- the request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("mpl=16", "nearest: mlp"),
        ("mlp@first.3=16", "nearest: mlp@first, mlp@second"),
        ("heads=8", "matches nothing in this model"),
        ("depth=3", "names no kind of dimension"),
    ],
)
def test_an_unknown_selector_lists_the_nearest_names(mlp, out, word, nearest):
    message = refused("grow", mlp, "-o", out, "--set", word, error="SelectorError")
    assert nearest in message
    assert word.partition("=")[0] in message


def test_an_unknown_kind_of_inspect_lists_the_nearest(mlp):
    assert "nearest: mlp" in refused("inspect", mlp, "--kind", "mpl", error="SelectorError")


@pytest.mark.parametrize("size", ["11", "x0.5", "0"])
def test_a_size_below_todays(mlp, out, size):
    message = refused("grow", mlp, "-o", out, "--set", f"mlp={size}", error="SizeError")
    assert f"mlp@first is {INNER} today" in message
    assert f"give at least {INNER}" in message


@pytest.mark.parametrize("word", ["mlp", "mlp=", "=4", "mlp=many", "mlp=-3", "mlp=1.5", "mlp=x"])
def test_a_word_that_is_no_size(mlp, out, word):
    message = refused("grow", mlp, "-o", out, "--set", word, error="SizeError")
    assert "give" in message


def test_one_selector_with_two_sizes(mlp, out):
    message = refused(
        "grow", mlp, "-o", out, "--set", "mlp=16", "--set", "mlp=20", error="SelectorError"
    )
    assert "16 and 20" in message


def test_a_pinned_dimension_says_what_pins_it(mlp, out):
    message = refused("grow", mlp, "-o", out, "--set", "width=+4", error="PinnedDimension")
    assert "an axis of the input x" in message
    assert 'boundary="crop"' in message


def test_a_request_is_atomic_and_names_the_rest(decoder, tmp_path):
    message = refused(
        "grow", decoder, "-o", tmp_path / "out.pt2", "--set", "mlp=24", "--set", "vocabulary=300",
        error="PinnedDimension",
    )  # fmt: skip
    assert "an axis of the output" in message
    assert "'mlp@blocks.0.mlp'" in message


def test_an_odd_size_where_rotary_pairs_need_even(decoder, tmp_path):
    message = refused(
        "grow", decoder, "-o", tmp_path / "out.pt2", "--set", "qk_dim=9", error="SizeError"
    )
    assert "rotated in pairs" in message
    assert "possible near it: 8, 10" in message


def test_a_group_that_does_not_divide(decoder, tmp_path):
    message = refused(
        "grow", decoder, "-o", tmp_path / "out.pt2", "--set", "heads=7", error="SizeError"
    )
    assert "2 key-value heads must divide it" in message
    assert "possible near it: 6, 8; or set kv_heads too" in message


# -- operators without semantics -------------------------------------------------------------------


@pytest.fixture
def mystery(tmp_path):
    """An MLP, then a matrix whose columns go through an operator that nobody knows."""
    first, weights = mlp_nodes("x", "h", "first")
    rest = [
        node("MatMul", "h wide", "a", "second"),
        node("Mystery", "a", "b", "second", "custom"),
        node("MatMul", "b narrow", "y", "third"),
    ]
    path = tmp_path / "mystery.onnx"
    more = [weight("wide", HIDDEN, 16), weight("narrow", 16, HIDDEN)]
    onnx.save(model([*first, *rest], [*weights, *more]), path)
    return path


def test_an_operator_without_semantics_is_named_where_it_pins(mystery, out):
    name = next(
        d["name"] for d in run("inspect", mystery, "--json").data["dimensions"] if d["size"] == 16
    )
    message = refused(
        "grow", mystery, "-o", out, "--set", f"{name}=20", error="UnsupportedOperator"
    )
    assert "Mystery in second has no semantics" in message
    assert "docs/add-an-operator.md" in message


def test_an_operator_without_semantics_does_not_matter_elsewhere(mystery, tmp_path):
    done = run("grow", mystery, "-o", tmp_path / "fine.onnx", "--set", "mlp=16")
    assert done.code == 0
    assert (tmp_path / "fine.onnx").is_file()


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "grow", "verify"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.onnx", "there is no file"),
        ("absent.pt2", "there is no file"),
        ("x.zip", ".onnx or .pt2"),
    ],
)
def test_a_file_that_is_not_there_or_no_model(tmp_path, out, mlp, command, name, says):
    words = {"grow": ["-o", out, "--set", "mlp=16"], "verify": [mlp], "inspect": []}[command]
    assert says in refused(command, tmp_path / name, *words, error="CarrierError")


@pytest.mark.parametrize("keep", [0, 1, 100, -100, -1])
def test_a_truncated_file(tmp_path, keep):
    path = tmp_path / "cut.onnx"
    path.write_bytes(mlp_model().SerializeToString()[:keep])
    message = refused("inspect", path, error="CarrierError")
    assert "cut.onnx" in message
    assert "truncated" in message or "cannot be read" in message


def test_a_truncated_program(decoder, tmp_path):
    path = tmp_path / "cut.pt2"
    path.write_bytes(decoder.read_bytes()[:-1000])
    assert "cut off" in refused("inspect", path, error="CarrierError")


def external(tmp_path, location):
    """The MLPs with their weights in another file."""
    proto = mlp_model()
    path = tmp_path / "model" / "mlp.onnx"
    path.parent.mkdir()
    onnx.save(
        proto, path, save_as_external_data=True, location="mlp.data", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_that_are_missing(tmp_path):
    message = refused("inspect", external(tmp_path, "gone.data"), error="CarrierError")
    assert "gone.data" in message
    assert "does not exist" in message


def test_external_data_that_are_truncated(tmp_path):
    path = external(tmp_path, "mlp.data")
    data = path.with_name("mlp.data")
    data.write_bytes(data.read_bytes()[:-4])
    assert "truncated" in refused("inspect", path, error="CarrierError")


@pytest.mark.parametrize("how", ["parent", "absolute", "link"])
def test_external_data_outside_of_the_models_folder(tmp_path, how):
    target = tmp_path / "elsewhere.data"
    location = {"parent": "../elsewhere.data", "absolute": str(target), "link": "link.data"}[how]
    path = external(tmp_path, location)
    shutil.move(path.with_name("mlp.data"), target)
    if how == "link":
        path.with_name("link.data").symlink_to(target)
    message = refused("inspect", path, error="CarrierError")
    assert "outside of the model's folder" in message
    assert "move the data beside the model" in message


def test_a_result_whose_shape_depends_on_the_data(tmp_path, out):
    nodes, weights = mlp_nodes("x", "h", "first")
    nodes += [
        node("NonZero", "h", "i", "pick"),
        node("Transpose", "i", "it", "pick"),
        node("GatherND", "h it", "y", "pick"),
    ]
    path = tmp_path / "picks.onnx"
    onnx.save(model(nodes, weights, ["count"]), path)
    message = refused("grow", path, "-o", out, "--set", "mlp=16", error="CarrierError")
    assert "depends on the data" in message
    assert "GatherND in pick" in message


class Picks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = torch.nn.Linear(8, 12), torch.nn.Linear(12, 8)

    def forward(self, x):
        y = self.down(torch.relu(self.up(x)))
        return y[y > 0]


def test_a_module_whose_result_has_a_shape_that_depends_on_the_data():
    with pytest.raises(meristem.CarrierError, match="depends on data") as caught:
        print(meristem.trace(Picks(), (torch.randn(3, 8),)))
    assert "fixed shapes" in str(caught.value)


def test_a_model_without_an_output(tmp_path):
    path = tmp_path / "empty.onnx"
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [])), path)
    assert "no graph with outputs" in refused("inspect", path, error="CarrierError")


# -- plans and outputs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[1]", "null", "5", '"abc"', '{"meristem_plan": 99}', '{"meristem_plan": 1}',
        '{"meristem_plan": 1, "sizes": 5}', '{"meristem_plan": 1, "sizes": {}, "weights": []}',
        '{"meristem_plan": 1, "sizes": {}, "clones": [], "changes": [], "weights": {}}',
        '{"meristem_plan": 1, "sizes": {}, "seed": "q", "changes": [], "weights": {}}',
    ],
)  # fmt: skip
def test_a_plan_that_is_none(mlp, out, tmp_path, text):
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    message = refused("grow", mlp, "-o", out, "--plan", plan, error="CarrierError")
    assert "plan" in message


@pytest.mark.parametrize("text", ['{"sizes": {}}', '{"meristem_plan": 1, "sizes": {}}', "{"])
def test_what_is_no_plan_says_what_it_lacks(mlp, out, tmp_path, text):
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    message = refused("grow", mlp, "-o", out, "--plan", plan, error="CarrierError")
    assert "it has no" in message or "line 1" in message
    assert "write one with meristem grow --save-plan" in message


def test_options_that_nothing_heeds(mlp, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.zeros((3, HIDDEN), np.float32))
    given = ("--inputs", tmp_path / "in.npz")
    for words, error, said in (
        ((*given, "--size", "nonsense=3"), "SizeError", "sizes would be of inputs that are drawn"),
        ((*given, "--seed", 4), "SizeError", "seed would be"),
        (("--runtime", "onnx.reference", "--provider", "cuda"), "RuntimeUnavailable", "in numpy"),
        (
            ("--runtime", "onnx.reference", "--optimization", "off"),
            "RuntimeUnavailable",
            "leave it out",
        ),
    ):
        assert said in refused("verify", mlp, mlp, *words, error=error)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 3", "gives int"),
        ("raise ValueError('boom')", "fails after 0 inputs (ValueError: boom)"),
        (
            "yield (np.zeros((2, 8)),)\n    raise KeyError('later')",
            "fails after 1 inputs (KeyError:",
        ),
        ("yield 3", "holds 0 tensors"),
    ],
)
def test_a_function_of_inputs_that_goes_wrong(mlp, tmp_path, body, says):
    file = tmp_path / "runs.py"
    file.write_text(f"import numpy as np\ndef f():\n    {body}\n")
    assert says in refused("verify", mlp, mlp, "--inputs", f"{file}:f", error="CarrierError")


@pytest.mark.parametrize("method", ["gradmax", "learned"])
def test_a_loss_is_given_in_python(decoder, tmp_path, method):
    words = ("--set", "mlp@blocks.0.mlp=24", "--method", method)
    message = refused("grow", decoder, "-o", tmp_path / "out.pt2", *words, error="MeristemError")
    assert "make the plan in Python" in message
    assert message.endswith("and carry it out with --plan\n")


def test_a_plan_that_is_not_there(mlp, out, tmp_path):
    message = refused("grow", mlp, "-o", out, "--plan", tmp_path / "no.json", error="CarrierError")
    assert "--save-plan" in message


def test_a_plan_for_another_model(mlp, out, decoder, tmp_path):
    plan = tmp_path / "plan.json"
    run("grow", mlp, "-o", tmp_path / "ok.onnx", "--set", "mlp=16", "--save-plan", plan)
    message = refused(
        "grow", decoder, "-o", tmp_path / "out.pt2", "--plan", plan, error="SelectorError"
    )
    assert "nearest: mlp@blocks.0.mlp" in message
    refused("verify", decoder, decoder, "--plan", plan, error="SelectorError")


def test_sizes_or_a_plan(mlp, out, tmp_path):
    for words in ([], ["--set", "mlp=16", "--plan", tmp_path / "plan.json"]):
        done = run("grow", mlp, "-o", out, *words)
        assert done.code == 2
        assert "either --set SELECTOR=SIZE, or --plan FILE" in done.err


@pytest.mark.parametrize("suffix", ["", ".txt", ".pb"])
def test_an_output_whose_suffix_says_nothing(mlp, tmp_path, suffix):
    message = refused(
        "grow", mlp, "-o", tmp_path / f"out{suffix}", "--set", "mlp=16", error="OutputError"
    )
    assert ".onnx, .pt2, .safetensors" in message


def test_an_output_that_this_source_cannot_give(mlp, tmp_path):
    message = refused(
        "grow", mlp, "-o", tmp_path / "out.pt2", "--set", "mlp=16", error="OutputError"
    )
    assert "saved as .onnx" in message


def test_an_output_in_a_folder_that_is_not_there(mlp, tmp_path):
    message = refused(
        "grow", mlp, "-o", tmp_path / "no" / "big.onnx", "--set", "mlp=16", error="OutputError"
    )
    assert "is not a folder" in message


def test_an_output_below_a_file(mlp, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "o.onnx"
    message = refused("grow", mlp, "-o", out, "--set", "mlp=16", error="OutputError")
    assert "is not a folder" in message


def test_a_plan_that_would_replace_a_model(mlp, out):
    for path in (out, mlp):
        message = refused(
            "grow", mlp, "-o", out, "--set", "mlp=16", "--save-plan", path, "--force",
            error="OutputError",
        )  # fmt: skip
        assert "give the plan another name" in message


def test_a_size_beyond_all_memory(mlp, out):
    message = refused("grow", mlp, "-o", out, "--set", "mlp=99999999999999", error="SizeError")
    assert "does not fit into memory" in message


def test_an_output_that_is_a_folder(mlp, tmp_path):
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    message = refused("grow", mlp, "-o", folder, "--set", "mlp=16", "--force", error="OutputError")
    assert "is a folder" in message


def test_an_output_in_a_folder_that_cannot_be_written(mlp, out, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meristem.writing.tempfile.mkdtemp", full)
    message = refused("grow", mlp, "-o", out, "--set", "mlp=16", error="OutputError")
    assert "No space left on device" in message


@pytest.mark.parametrize("existing", ["out.onnx", "out.json"])
def test_nothing_is_overwritten_without_force(mlp, out, tmp_path, existing, request):
    request.node.kept = {existing}
    (tmp_path / existing).write_text("precious")
    words = ("grow", mlp, "-o", out, "--set", "mlp=16", "--save-plan", tmp_path / "out.json")
    assert "--force" in refused(*words, error="OutputError")
    assert (tmp_path / existing).read_text() == "precious"


def test_a_failure_with_force_overwrites_nothing(mlp, out, request):
    request.node.kept = {"out.onnx"}
    out.write_text("precious")
    refused("grow", mlp, "-o", out, "--set", "mlp=3", "--force", error="SizeError")
    assert out.read_text() == "precious"


def test_a_refusal_for_machines(mlp, out):
    done = run("grow", mlp, "-o", out, "--set", "mlp=3", "--json")
    assert done.code == 2
    assert done.data["error"]["type"] == "SizeError"
    assert done.data["error"]["message"] in done.err


@pytest.mark.parametrize(
    "words",
    [["grow"], ["inspect"], ["shrink"], ["inspect", "a", "--what"], ["verify", "a"]],
)
def test_wrong_usage(words):
    assert run(*words).code == 2

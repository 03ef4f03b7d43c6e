"""The commands where all is well: results, exit codes, files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import meristem
from meristem.cli_arguments import parse_at, parse_sizes
from tests.cli.conftest import HIDDEN, refused, run

DIMENSION = {"name", "kind", "place", "size", "pinned", "boundary", "weights"}


def outputs(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


# -- inspect ---------------------------------------------------------------------------------------


def test_inspect_shows_what_grows_and_what_is_pinned(mlp):
    done = run("inspect", mlp)
    assert done.code == 0
    assert done.err == ""
    words = done.out.split()
    assert "mlp" in words
    assert "pinned" in words
    assert "an axis of the input x" in " ".join(words)


@pytest.mark.parametrize("fixture", ["mlp", "decoder"])
def test_tables_fit_eighty_columns(fixture, request):
    done = run("inspect", request.getfixturevalue(fixture))
    assert max(map(len, done.out.splitlines())) <= 80


def test_places_that_differ_in_numbers_share_a_row(decoder):
    lines = run("inspect", decoder, "--kind", "mlp").out.splitlines()
    (row,) = [line for line in lines if line.startswith("mlp")]
    assert "blocks.*.mlp (2 places)" in row


def test_inspect_for_machines(mlp):
    data = run("inspect", mlp, "--json").data
    assert set(data) == {"model", "carrier", "parameters", "dimensions", "notes"}
    assert data["carrier"] == "onnx"
    assert data["parameters"] == 4 * 8 * 12
    assert all(set(d) == DIMENSION for d in data["dimensions"])
    by_name = {d["name"]: d for d in data["dimensions"]}
    assert by_name["mlp@first"]["size"] == 12
    assert by_name["mlp@first"]["pinned"] is None
    assert by_name["mlp@first"]["weights"] == [["first.up", 1], ["first.down", 0]]


def test_inspect_one_kind(decoder):
    data = run("inspect", decoder, "--json", "--kind", "heads").data
    assert {d["kind"] for d in data["dimensions"]} == {"heads"}


# -- grow ------------------------------------------------------------------------------------------


def test_grow_writes_a_model_that_computes_the_same(mlp, tmp_path):
    out = tmp_path / "out.onnx"
    done = run("grow", mlp, "-o", out, "--set", "mlp=20", "--set", "mlp@second=+3", "--verify")
    assert done.code == 0, done
    assert done.err == ""
    assert "the same function" in done.out
    assert f"wrote {out}" in done.out.replace("\n", "")
    x = np.random.default_rng(0).standard_normal((3, HIDDEN)).astype(np.float32)
    np.testing.assert_allclose(outputs(mlp, x), outputs(out, x), rtol=1e-5, atol=1e-6)
    shapes = {t.name: tuple(t.dims) for t in onnx.load(out).graph.initializer}
    assert (shapes["first.up"], shapes["second.up"]) == ((8, 20), (8, 15))
    assert {p.name for p in tmp_path.iterdir()} == {"mlp.onnx", "out.onnx"}


def test_grow_for_machines(mlp, tmp_path):
    out = tmp_path / "out.onnx"
    data = run("grow", mlp, "-o", out, "--set", "mlp=x1.5", "--json", "--verify", "--seed", 3).data
    assert set(data) == {
        "model", "written", "parameters", "options", "changes", "added", "locked", "saddles", "notes",
        "verification",
    }  # fmt: skip
    assert data["written"] == [str(out)]
    assert data["options"]["seed"] == 3
    assert [(c["name"], c["before"], c["after"]) for c in data["changes"]] == [
        ("mlp@first", 12, 18),
        ("mlp@second", 12, 18),
    ]
    assert data["verification"]["ok"] is True
    assert data["verification"]["levels"]["deployment"]["word"] in ("noise-floor", "bit-exact")


def test_a_plan_is_written_and_used_again(mlp, tmp_path):
    plan, one, two = tmp_path / "plan.json", tmp_path / "one.onnx", tmp_path / "two.onnx"
    words = ("--set", "mlp=15", "--seed", 7, "--save-plan", plan)
    assert run("grow", mlp, "-o", one, *words).code == 0
    assert json.loads(plan.read_text())["sizes"] == {"mlp@first": 15, "mlp@second": 15}
    assert run("grow", mlp, "-o", two, "--plan", plan).code == 0
    assert one.read_bytes() == two.read_bytes()


def test_models_are_fused(mlp, tmp_path):
    first = onnx.load(mlp)
    for stored in first.graph.initializer:
        stored.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(stored), stored.name))
    other, out, plan = (tmp_path / n for n in ("other.onnx", "out.onnx", "plan.json"))
    onnx.save(first, other)
    words = ("grow", mlp, "-o", out, "--set", "mlp=x2", "--method", "fuse", "--json")
    done = run(*words, "--model", other, "--save-plan", plan, "--verify")
    assert done.code == 0
    assert not done.data["notes"]
    both = {"mlp": "x2"}, {"method": "fuse", "models": [meristem.load(other)]}
    expected = meristem.grow(meristem.load(mlp), both[0], **both[1]).state_dict()
    got = meristem.load(out).state_dict()
    assert all(np.array_equal(got[n], expected[n]) for n in expected)
    assert run("verify", mlp, out, "--plan", plan, "--model", other).code == 0
    assert "--model, for each" in refused("verify", mlp, out, "--plan", plan, error="CarrierError")
    assert run("verify", mlp, out, "--model", other).code == 2
    (note,) = run(*words, "--force").data["notes"]
    assert note.startswith("the model is fused with itself")


def test_batches_of_a_file_are_measured(tmp_path):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    meristem.trace(net, (torch.randn(2, 4),)).save(tmp_path / "net.pt2")
    np.savez(tmp_path / "batch.npz", np.ones((8, 4), np.float32))
    words = ("grow", tmp_path / "net.pt2", "-o", tmp_path / "out.pt2", "--set", "layers@0=2")
    given = ("--method", "net2deeper", "--batches", tmp_path / "batch.npz", "--json")
    (note,) = run(*words, *given).data["notes"]
    assert note.endswith("batch norms with statistics measured on batches")


def test_force_replaces(mlp, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("old")
    assert run("grow", mlp, "-o", out, "--set", "mlp=16", "--force").code == 0
    assert onnx.load(out).graph.initializer


def test_a_file_may_replace_itself(mlp):
    assert run("grow", mlp, "-o", mlp, "--set", "mlp=16", "--force").code == 0
    assert {d.size for d in meristem.load(mlp).dimensions if d.kind == "mlp"} == {16}


def test_a_program_grows_into_a_program(decoder, tmp_path):
    out = tmp_path / "out.pt2"
    done = run("grow", decoder, "-o", out, "--set", "heads=+2", "--set", "hidden=24")
    assert done.code == 0, done
    grown = meristem.load(out)
    assert {d.size for d in grown.dimensions if d.kind == "heads"} == {6}


def test_today_is_no_growth(mlp, tmp_path):
    done = run("grow", mlp, "-o", tmp_path / "out.onnx", "--set", "mlp=12")
    assert done.code == 0
    assert "nothing grows" in done.out


def test_boundary_crop_keeps_the_interface(mlp, tmp_path):
    out = tmp_path / "out.onnx"
    done = run("grow", mlp, "-o", out, "--set", "width=+4", "--boundary", "crop", "--verify")
    assert done.code == 0, done
    x = np.random.default_rng(0).standard_normal((3, HIDDEN)).astype(np.float32)
    np.testing.assert_allclose(outputs(mlp, x), outputs(out, x), rtol=1e-5, atol=1e-6)


# -- verify ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(mlp, tmp_path):
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    run("grow", mlp, "-o", out, "--set", "mlp=16", "--save-plan", plan)
    return mlp, out, plan


def spoil(path):
    """One weight changed by a thousandth."""
    proto = onnx.load(path)
    tensor = proto.graph.initializer[0]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1e-3
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, path)


def test_verify_two_files(pair):
    a, b, _ = pair
    done = run("verify", a, b, "--provider", "cpu")
    assert done.code == 0, done
    assert "the same function (as measured; not checked: algebra, training)" in done.out
    assert done.out.count("not checked: ") == 1  # the table has the word alone


def test_verify_in_several_settings(pair, tmp_path):
    a, b, plan = pair
    x = np.random.default_rng(0).standard_normal((3, HIDDEN)).astype(np.float32)
    np.savez(tmp_path / "one.npz", x=x)
    data = run(
        "verify", a, b, "--plan", plan, "--runtime", "onnxruntime", "--runtime", "onnx.reference",
        "--dtype", "float16", "--dtype", "bfloat16", "--optimization", "basic",
        "--inputs", tmp_path / "one.npz", "--json",
    ).data  # fmt: skip
    found = data["levels"]["deployment"]
    assert data["ok"]
    assert found["inputs"] == ["one.npz"]
    assert {p["setting"] for p in found["placement"]} == {
        "ONNX Runtime CPU, optimisations basic, float16"
    }
    assert any("bfloat16: not checked" in n for n in found["notes"])
    assert {d["second"] for d in found["differences"]} == {"onnx.reference, float16"}


def test_verify_at_a_size(pair):
    a, b, _ = pair
    data = run("verify", a, b, "--size", "batch=9", "--optimization", "all", "--json").data
    assert all(f"9x{HIDDEN}" in i for i in data["levels"]["deployment"]["inputs"])
    assert run("verify", a, b, "--size", "sequence").code == 2


def test_verify_with_the_plan(pair):
    a, b, plan = pair
    data = run("verify", a, b, "--plan", plan, "--json").data
    words = {name: level["word"] for name, level in data["levels"].items()}
    assert words["algebra"] in ("noise-floor", "bit-exact")
    assert words["deployment"] in ("noise-floor", "bit-exact")
    assert data["ok"] is True


def test_a_plan_of_the_module_verifies_two_files(tmp_path):
    """Its names are those of the module, not of its export, and the file that is there is what runs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    model = meristem.trace(net, (torch.randn(3, 4),))
    a, b, plan = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "plan.json"
    model.save(a)
    plan.write_text(meristem.plan(model, {"mlp": "x2"}).to_json())
    assert run("grow", a, "-o", b, "--plan", plan).code == 0
    unused = onnx.helper.make_function(
        "own", "Unused", ["a"], ["b"], [onnx.helper.make_node("NoSuchOp", ["a"], ["b"])],
        [onnx.helper.make_opsetid("", 18)],
    )  # fmt: skip
    proto = onnx.load(b)
    proto.functions.append(unused)
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
    onnx.save(proto, b)
    data = run("verify", a, b, "--plan", plan, "--json").data
    assert data["ok"]
    assert data["levels"]["algebra"]["word"] in ("noise-floor", "bit-exact")


@pytest.mark.parametrize("with_plan", [False, True])
def test_a_difference_is_exit_code_one(pair, with_plan):
    a, b, plan = pair
    spoil(b)
    done = run("verify", a, b, *(["--plan", plan] if with_plan else []), "--json")
    assert done.code == 1
    assert done.data["ok"] is False


def test_a_growth_that_differs_is_not_written(mlp, tmp_path, monkeypatch):
    real = meristem.verify

    def spoiled(model, grown, **options):
        spoil(mlp)  # the original is no longer what was grown
        return real(mlp, grown, **options)

    monkeypatch.setattr("meristem.api.verify", spoiled)
    out = tmp_path / "out.onnx"
    done = run("grow", mlp, "-o", out, "--set", "mlp=16", "--verify")
    assert done.code == 1
    assert "nothing was written, because the function differs" in done.out
    assert not out.exists()


def test_a_provider_that_is_not_there(pair):
    a, b, _ = pair
    done = run("verify", a, b, "--provider", "abacus")
    assert done.code == 2
    assert done.err.startswith("meristem: RuntimeUnavailable: ")


# -- the command itself ----------------------------------------------------------------------------


def command(*words, module="meristem"):
    return subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["grow", "--help"], ["search", "--help"], ["--version"], ["inspect"]]
)
def test_words_come_without_heavy_imports(words):
    code = (
        f"import sys\nsys.argv = ['meristem', *{words!r}]\nfrom meristem.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'onnx_ir'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_onnx_file_is_inspected_without_torch(mlp):
    code = (
        f"import sys\nsys.argv = ['meristem', 'inspect', {str(mlp)!r}]\n"
        "from meristem.cli import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_says_nothing_but_its_result(mlp, tmp_path):
    done = command("grow", str(mlp), "-o", str(tmp_path / "out.onnx"), "--set", "mlp=16", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["written"]


def test_a_process_refuses_with_two(mlp):
    done = command("grow", str(mlp), "-o", "out.onnx", "--set", "mlp=1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_the_version():
    assert run("--version").out.strip() == meristem.__version__


# -- words -----------------------------------------------------------------------------------------


def test_sizes_are_read():
    words = ["mlp=4096", "heads=+2", "mlp@model.layers.3.*=x1.5", " hidden = 64 "]
    assert parse_sizes(words) == {
        "mlp": 4096, "heads": "+2", "mlp@model.layers.3.*": "x1.5", "hidden": 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "at"),
    [(None, None), ("end", "end"), ("spread", "spread"), ("0,2", (0, 2)), ("3", (3,))],
)
def test_positions_are_read(word, at):
    assert parse_at(word) == at


def test_positions_that_are_none(mlp, tmp_path):
    done = run("grow", mlp, "-o", tmp_path / "o.onnx", "--set", "mlp=16", "--at", "middle")
    assert done.code == 2
    assert "neither end nor spread" in done.err


def test_new_entries_can_be_given(mlp, tmp_path):
    """By a file and by a word; what is given twice, or by no file, is refused."""
    from safetensors.numpy import save_file

    name = "first.up"
    rows = np.full((HIDDEN, 4), 0.25, np.float32)
    save_file({name: rows}, tmp_path / "rows.safetensors")
    out = tmp_path / "out.onnx"
    request = ("grow", mlp, "-o", out, "--set", "mlp@first=16")
    assert run(*request, "--given", tmp_path / "rows.safetensors", "--verify").code == 0
    assert np.array_equal(meristem.load(out).state_dict()[name][:, 12:], rows)
    assert run(*request, "--given", f"{name}=mean", "--force").code == 0
    old = meristem.load(mlp).state_dict()[name]
    new = meristem.load(out).state_dict()[name][:, 12:]
    np.testing.assert_allclose(new, np.repeat(old.mean(1, keepdims=True), 4, 1), rtol=1e-5)
    again = ("--given", tmp_path / "rows.safetensors", "--given", f"{name}=mean", "--force")
    refused(*request, *again, error="MeristemError")
    refused(*request, "--given", tmp_path / "no.safetensors", "--force", error="CarrierError")

"""Growth in workflows that Olive itself runs, from JSON files and through its command line."""

import json
import re
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from olive.cli.launcher import main as olive
from olive.model import CompositeModelHandler, ONNXModelHandler, PyTorchModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.workflows import run

import meristem
from meristem.integrations.olive_pass import (
    MeristemGrowth,
    MeristemSurgeon,
    package_config,
    write_package_config,
)
from tests.house.tree import ROOT
from tests.integrations.examples import example
from tests.integrations.models import Block, Config


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        config = Config()
        self.embed = torch.nn.Embedding(11, config.hidden)
        self.blocks = torch.nn.ModuleList(Block(config) for _ in range(2))
        self.norm = torch.nn.LayerNorm(config.hidden)
        self.head = torch.nn.Linear(config.hidden, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@pytest.fixture(scope="module")
def traced():
    torch.manual_seed(0)
    return meristem.trace(Tower().eval(), (torch.randint(0, 11, (2, 5)),))


@pytest.fixture(scope="module")
def source(traced, tmp_path_factory):
    return traced.save(tmp_path_factory.mktemp("source") / "tower.onnx")


def workflow(folder, source, *passes, **more):
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(source)},
        "passes": {f"p{i}": p for i, p in enumerate(passes)},
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
        "log_severity_level": 4,
        **more,
    }


def ran(folder, source, *passes, **more):
    output = run(workflow(folder, source, *passes, **more), package_config=package_config())
    best = output.get_best_candidate()
    assert best is not None
    return ONNXModelHandler(**best.model_config)


def sizes(path):
    found = {}
    for d in meristem.load(path).dimensions:
        found.setdefault(d.kind, set()).add(d.size)
    return found


def grown_alone(**config):
    """Our pass as Olive constructs it."""
    return create_pass_from_dict(MeristemGrowth, config, disable_search=True)


def test_olive_runs_a_workflow_that_names_the_pass(source, tmp_path):
    growth = {"type": "MeristemGrowth", "sizes": {"mlp": "x2"}}
    # A pass of Olive's own follows, and what was written beside the model comes with it.
    model = ran(tmp_path, source, growth, {"type": "OnnxPeepholeOptimizer"})
    assert sizes(model.model_path)["mlp"] == {12}
    assert meristem.verify(str(source), model.model_path).ok
    beside = {Path(f).name: Path(f) for f in model.model_attributes["additional_files"]}
    assert set(beside) == {"growth_plan_1.json", "growth_report_1.json"}
    plan = meristem.Plan.from_json(beside["growth_plan_1.json"].read_text())
    assert {c.after for c in plan.changes} == {12}
    report = json.loads(beside["growth_report_1.json"].read_text())
    assert report["ok"]
    assert report["levels"]["algebra"]["word"] in ("bit-exact", "noise-floor")


def test_the_workflow_of_the_page_runs(source, tmp_path, monkeypatch):
    """By the command line, with a surgeon among GraphSurgeries."""
    page = (ROOT / "docs/integrations/olive.md").read_text(encoding="utf-8")
    (workflow,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(source, "model.onnx")
    Path("workflow.json").write_text(workflow, encoding="utf-8")
    write_package_config("packages.json")
    quiet = ["--log_level", "4"]
    olive(["run", "--config", "workflow.json", "--package-config", "packages.json", *quiet])
    grown = sizes("out/model.onnx")
    assert (grown["mlp"], grown["hidden"]) == ({12}, {12})
    assert meristem.verify(str(source), "out/model.onnx").ok


def test_several_growths_and_external_data(source, tmp_path):
    model = ran(
        tmp_path, source,
        {"type": "MeristemGrowth", "sizes": {"mlp": 9}, "seed": 3},
        {"type": "GraphSurgeries", "surgeries": [
            {"surgeon": "InferShapes"},
            {"surgeon": "MeristemSurgeon", "sizes": {"hidden": 12}},
        ]},
        {"type": "MeristemGrowth", "sizes": {"layers": "+1"}, "save_as_external_data": True,
         "size_threshold": 0},
    )  # fmt: skip
    grown = sizes(model.model_path)
    assert (grown["mlp"], grown["hidden"], grown["layers"]) == ({9}, {12}, {3})
    assert meristem.verify(str(source), model.model_path).ok
    names = {Path(f).name for f in model.model_attributes["additional_files"]}
    assert {"growth_plan_1.json", "growth_plan_2.json"} <= names
    weights = onnx.load(model.model_path, load_external_data=False).graph.initializer
    assert any(w.external_data for w in weights)


def test_a_plan_of_the_torch_model_and_its_content_in_the_cache(traced, source, tmp_path):
    path = tmp_path / "plan.json"
    growth = {"type": "MeristemGrowth", "plan": str(path)}
    for size in (8, 10):
        path.write_text(meristem.plan(traced, {"mlp": size}).to_json())
        model = ran(tmp_path, source, growth)  # with the cache of the run before
        assert sizes(model.model_path)["mlp"] == {size}


@pytest.mark.full
def test_the_example_runs_through_olives_command_line(tmp_path, capsys):
    example("olive_workflow").main(tmp_path)
    said = capsys.readouterr().out
    assert "the same function" in said
    assert (tmp_path / "out" / "growth_plan_1.json").is_file()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "either sizes, as in"),
        ({"sizes": {"mlp": "x2"}, "plan": {"a": 1}}, "either sizes, as in"),
        ({"sizes": {"mlp": 3}}, "SizeError"),
        ({"sizes": {"no_such": 3}}, "SelectorError"),
        ({"plan": "no_such_plan.json"}, "no_such_plan.json"),
        ({"sizes": {"mlp": "x2"}, "method": "no_such"}, "no_such"),
    ],
)
def test_a_refusal_ends_the_workflow_with_its_words(config, words, source, tmp_path):
    with pytest.raises(ValueError, match=words):
        ran(tmp_path, source, {"type": "MeristemGrowth", **config})


def test_a_refusal_may_fail_one_point_alone(source, tmp_path):
    growth = {"type": "MeristemGrowth", "sizes": {"mlp": 3}, "prune_refusals": True}
    output = run(workflow(tmp_path, source, growth), package_config=package_config())
    assert not output.has_output_model()


def test_what_differs_does_not_pass(source, tmp_path, monkeypatch):
    """One weight of the written file is off by 1e-3."""
    save = meristem.Model.save

    def spoiled(model, path):
        save(model, path)
        proto = onnx.load(path)
        weight = next(w for w in proto.graph.initializer if w.name == "embed.weight")
        array = onnx.numpy_helper.to_array(weight).copy()
        array.flat[0] += 1e-3
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(proto, path)
        return path

    monkeypatch.setattr(meristem.Model, "save", spoiled)
    handler = ONNXModelHandler(str(source))
    with pytest.raises(ValueError, match="not the same function"):
        grown_alone(sizes={"mlp": 9}).run(handler, str(tmp_path / "differs"))
    grown_alone(sizes={"mlp": 9}, verify=False).run(handler, str(tmp_path / "unseen"))


def test_components_grow_one_by_one_and_other_models_are_refused(source, tmp_path):
    parts = [ONNXModelHandler(str(source)) for _ in range(2)]
    both = CompositeModelHandler(parts, ["one", "two"])
    grown = grown_alone(sizes={"mlp": 9}).run(both, str(tmp_path / "both"))
    for _, part in grown.get_model_components():
        assert sizes(part.model_path)["mlp"] == {9}
    torch_model = PyTorchModelHandler(model_loader=lambda _: torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="place it after OnnxConversion"):
        grown_alone(sizes={"mlp": 9}).run(torch_model, str(tmp_path / "out"))


def test_the_surgeon_leaves_its_input_alone(source):
    proto = onnx.load(source)
    before = proto.SerializeToString()
    larger = MeristemSurgeon(sizes={"mlp": 9})(proto)
    assert proto.SerializeToString() == before
    assert meristem.verify(meristem.load(proto), meristem.load(larger)).ok
    with pytest.raises(ValueError, match="PinnedDimension"):
        MeristemSurgeon(sizes={"vocabulary@*head*": 12})(proto)


def test_olives_command_line_refuses_aloud(source, tmp_path):
    config = tmp_path / "workflow.json"
    config.write_text(
        json.dumps(workflow(tmp_path, source, {"type": "MeristemGrowth", "sizes": {"mlp": 3}}))
    )
    packages = write_package_config(tmp_path / "packages.json")
    with pytest.raises(ValueError, match="SizeError"):
        olive(["run", "--config", str(config), "--package-config", str(packages)])

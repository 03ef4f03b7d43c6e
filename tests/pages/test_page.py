"""What a page says: numbers, proofs, refusals, measurements, and the lines that do it again."""

import html
import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch

import meristem
from meristem.pages import commands, words
from meristem.pages.commands import Compared
from meristem.pages.evidence import obligations_of
from meristem.pages.growth import Growth
from meristem.pages.page import Content, Side, assemble
from meristem.reporting import page
from meristem.rewrite.flops import count_flops
from meristem.rewrite.methods import DEPTH, METHODS, UPCYCLE
from meristem.verify.locate import LayerAgreement
from meristem.verify.report import LEVELS, Measure, Report, Verdict, not_checked
from meristem.verify.statistics import OutputStatistics

STATISTICS = OutputStatistics(
    "logits", "CPU, float16", 1000, 2e-3, 1e-4, dict.fromkeys(("0.5", "0.9", "0.99", "0.999"), 1e-3),
    1.5e-3, 1.33, 61.5, float("inf"), 0.9975, [(-3, 900), (None, 90), (-5, 10)],
)  # fmt: skip
LAYERS = [
    LayerAgreement("hidden_0", "aten.linear", "blocks.0.mlp", 1e-12, 2.0, 240.0),
    LayerAgreement("hidden_1", "aten.linear", "blocks.1.mlp", 0.5, 2.0, 12.0, True, ("up.weight",)),
]
NASTY = "<script>alert(1)</script>"


def side(model):
    return Side(
        model.graph, model.equations, list(model.stacks.values()), model.dimensions,
        model.parameters, model.side.name,
    )  # fmt: skip


def embedded(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_numbers_before_and_after(model, grown):
    costs = assemble(Content("", side(grown), side(model), grown.plan))["costs"]
    assert [(c["before"], c["after"]) for c in costs] == [
        (model.parameters, grown.parameters),
        (count_flops(model.graph).total, count_flops(grown.graph).total),
    ]
    text = page(grown, before=model)
    assert f"<strong>{grown.parameters:,}</strong>" in text
    assert f'<span class="was">{model.parameters:,}</span>' in text


def test_flops_at_other_shapes_are_not_compared_in_silence(model):
    module = torch.nn.Linear(3, 4)
    a, b = (meristem.trace(module, (torch.randn(n, 3),), None, None) for n in (2, 5))
    notes = assemble(Content("", side(b), side(a)))["flops"]
    assert "counted at other shapes" in notes[1]


def test_every_dimension_has_its_proof(model, grown):
    rows = {r[0]: r for r in embedded(page(grown, before=model))["rows"]}
    data = embedded(page(grown, before=model))
    assert [r[0] for r in data["rows"][:2]] == [
        "heads@blocks.1.attention",
        "group@blocks.1.attention",
    ]
    _, before, after, state, why, weights, proof, count = rows["mlp@blocks.3.mlp"]
    assert (before, after, state, count) == (20, 40, "grown", 3)
    assert data["texts"][why] == words.STRATEGIES["zero"]
    # The proof is the source's: there this block was the second one.
    assert [data["texts"][i] for i in proof] == [
        "aten.linear in blocks.1.mlp.down sums over new coordinates, so one factor must be zero: met"
    ]
    told = dict(data["weights"][i] for i in weights[::2])
    assert told["blocks.3.mlp.up.weight"] == (
        "20 × 16 → 40 × 16; new entries: drawn like their neighbours"
    )
    assert told["blocks.3.mlp.down.weight"] == "16 × 20 → 16 × 40; new entries: zero"
    assert rows["mlp@blocks.0.mlp"][1:4] == [None, 40, "new"]
    assert rows["vocabulary"][3] == "pinned"
    assert rows["qk_dim@blocks"][3] == "free"


def test_every_dimension_of_the_model_is_there(model, grown):
    for m in (model, grown):
        assert sorted(r[0] for r in embedded(page(m))["rows"]) == sorted(
            d.name for d in m.dimensions
        )


def test_obligations_belong_to_what_they_are_about(model):
    plan = meristem.plan(model, {"mlp": 24, "hidden": 20})
    found = obligations_of(model.graph, model.equations, model.dimensions, plan.proof)
    (down,) = found["mlp@blocks.0.mlp"]
    assert down.startswith("aten.linear in blocks.0.mlp.down sums over new coordinates")
    assert any(line.startswith("aten.rms_norm in norm") for line in found["hidden"])
    assert {line for lines in found.values() for line in lines} == set(plan.proof)


def test_stages_count_as_one_growth(model):
    """First widths, then mixtures, in two stages: what both do to a weight is told as one."""
    grown = meristem.grow(model, {"mlp": 40, "layers": 3, "experts": 3}, method="upcycle")
    growth = Growth(grown.plan, model.dimensions)
    assert len(grown.plan.stages) == 2
    assert growth.changes["mlp@blocks.0.mlp"].before == 20
    text = page(grown, before=model)
    assert words.STRATEGIES["upcycle"] in text
    assert f"<strong>{grown.parameters:,}</strong>" in text


def test_what_does_not_preserve_says_so(model):
    text = page(meristem.grow(model, {"layers": 4}, method="stack"), before=model)
    assert "Why it computes nearly the same" in text
    assert "Does not preserve the function" in text
    assert "another function, as the plan says; not measured" in text


# -- refusals --------------------------------------------------------------------------------------


def test_a_refusal_says_what_where_and_why(model):
    with pytest.raises(meristem.PinnedDimension) as refusal:
        meristem.grow(model, {"vocabulary": 300})
    text = page(model, refusal=refusal.value, request={"vocabulary": 300})
    assert "refused: nothing was grown" in text
    assert "it is an axis of the output" in text
    assert "<dt>dimension</dt><dd>vocabulary</dd>" in text
    assert "--set vocabulary=300" in text


def test_pinned_dimensions_and_their_reasons(model):
    (row,) = assemble(Content("", side(model)))["pinned"]
    pinned = next(d for d in model.dimensions if d.pinned)
    assert (row["kind"], row["reason"], row["lifted"]) == ("vocabulary", pinned.pinned, True)


def test_strategies_that_were_refused():
    layers = torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 2)
    small = meristem.trace(torch.nn.Sequential(*layers), (torch.randn(2, 4),), None, None)
    grown = meristem.grow(small, {"rank": 9})
    assert grown.plan.refusals
    assert "Strategies that were tried and refused" in page(grown)


# -- measurements ----------------------------------------------------------------------------------


def report(*verdicts):
    return Report(dict(zip(("algebra", "deployment", "training"), verdicts, strict=False)))


def test_measurements_statistics_layers_and_placement(model, grown):
    class Placed:
        setting, provider, nodes, operators = "CPU", "CPUExecutionProvider", 7, {"MatMul": 7}

    verdicts = report(
        Verdict("differs", "y differs", [Measure("stored w", 1.0, 2.0), Measure("y", 1.0, 1e-3)],
                ["random"], ["a note"], layers=LAYERS),
        Verdict("noise-floor", statistics=[STATISTICS], placement=[Placed()]),
        not_checked("no plan"),
    )  # fmt: skip
    text = page(grown, before=model, verification=verdicts)
    assert "✗</span> the function differs (algebra)" in text
    assert text.index(">y</th>") < text.index("stored w</th>"), "what differs stands first"
    assert "✗ no" in text
    assert "parts here: up.weight" in text
    assert "Histogram of errors of logits, CPU, float16: 90 exactly equal, 10 of about 1e-5" in text
    assert ">99.75 %<" in text
    assert ">equal<" in text
    assert "MatMul × 7" in text
    assert "training: " in text
    assert "no plan" in text
    assert "a note" in text


def test_a_real_verification(model, tmp_path):
    grown = meristem.grow(model, {"mlp": 24})
    verdicts = meristem.verify(model, grown)
    path = grown.report(tmp_path / "page.html", before=model, verification=verdicts)
    text = path.read_text(encoding="utf-8")
    assert "✓</span> the same function" in text
    assert all(f'id="level-{name}"' in text for name in verdicts.levels)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_numbers_that_are_none_are_shown(model):
    wild = Verdict(
        "differs", "nan", [Measure("y", float("nan"), 0.0), Measure("z", float("inf"), 1.0)]
    )
    text = page(model, verification=report(wild))
    assert ">nan</td>" in text
    assert ">inf</td>" in text


def test_infinite_errors_are_called_so(model):
    wild = replace(STATISTICS, histogram=[(309, 32), (-7, 4)])
    text = page(model, verification=report(Verdict("differs", statistics=[wild])))
    assert "4 of about 1e-7, 32 infinite or no number" in text
    assert "1e309" not in text


def test_every_level_is_explained(model):
    assert set(words.LEVELS) == set(LEVELS)
    text = page(model, verification=Report({"decoding": not_checked("no plan")}))
    assert "step by step with the cache" in text
    assert '<p class="hint">. ' not in text


# -- words -----------------------------------------------------------------------------------------


def test_every_strategy_and_method_has_words():
    strategies = {s for m in METHODS.values() for s in (*m.graph, *m.weights)}
    assert {*strategies, UPCYCLE, "resized"} <= set(words.STRATEGIES)
    assert {*DEPTH, "learned"} <= set(words.DEPTH)


def test_rows_that_differ_in_numbers_alone_are_merged():
    rows = ["a in blocks.0.up", "a in blocks.1.up", "b in blocks.0.up"]
    assert words.merged(rows) == [("a in blocks.*.up", 2), ("b in blocks.0.up", 1)]


# -- again -----------------------------------------------------------------------------------------


def test_the_lines_do_it_again(model, grown):
    sizes = commands.sizes_of(grown.plan, model.dimensions)
    assert sizes == {"mlp": 40, "heads": 6, "layers": 4}
    again = commands.python(
        ("model.pt2", "grown.pt2"),
        sizes,
        commands.options_of(grown.plan),
        traced=True,
        verified=False,
    )
    line = next(x for x in again if x.startswith("grown ="))
    scope = {"meristem": meristem, "model": model}
    exec(line, scope)
    for name, tensor in grown.state_dict().items():
        assert torch.equal(scope["grown"].state_dict()[name], tensor)
    shell = commands.shell(
        ("a.pt2", "b.pt2"), sizes, commands.options_of(grown.plan), verified=True
    )
    assert shlex.split(shell)[:5] == ["meristem", "grow", "a.pt2", "-o", "b.pt2"]
    assert "--at 0,1 --seed 3 --verify" in shell


def test_files_that_were_compared_are_compared_again(model, grown):
    """Growing again would compare what the growth makes, and not the file that was looked at."""
    asked = Compared(
        {"dtypes": ["float16"], "inputs": ["in.npz", "runs.py:f"], "layers": True}, "p.json"
    )
    text = html.unescape(
        page(grown, before=model, verification=report(not_checked("")), files=("a.pt2", "b.pt2"),
             compared=asked)
    )  # fmt: skip
    again = re.search(r'aria-labelledby="python"><code>(.*?)</code>', text, re.DOTALL)[1]
    assert again.splitlines() == [
        "from pathlib import Path",
        "",
        "import meristem",
        "",
        "model = meristem.load('a.pt2')",
        "grown = meristem.load('b.pt2')",
        "grown.plan = meristem.Plan.from_json(Path('p.json').read_text())",
        "report = meristem.verify(",
        "    model, grown,",
        "    dtypes=['float16'],",
        "    inputs=['in.npz', 'runs.py:f'],",
        "    layers=True,",
        ")",
        'grown.report("report.html", before=model, verification=report)',
    ]


@pytest.mark.parametrize(
    ("packages", "lines"),
    [
        ((False, True), ["grown = 'b.pt2'  # a compiled package", 'model.report("report.html", ']),
        ((True, False), ["model = 'a.pt2'  # a compiled package", 'grown.report("report.html", ']),
    ],
)
def test_packages_are_compared_by_their_paths(packages, lines):
    again = commands.python(
        ("a.pt2", "b.pt2"), {}, {}, traced=True, verified=True, compared=Compared(packages=packages)
    )
    assert lines[0] in again
    assert again[-1] == f"{lines[1]}verification=report)"


def test_what_a_repetition_needs_is_said(model):
    name = "blocks.0.mlp.up.weight"
    plan = meristem.plan(model, {"mlp": 24}, given={name: np.ones((4, 16), np.float32)})
    assert name in commands.needs(plan)[0]
    assert commands.needs(meristem.plan(model, {"mlp": 24})) == []


# -- one file --------------------------------------------------------------------------------------


def test_a_page_names_nothing_outside_of_it(model, grown):
    text = html.unescape(page(grown, before=model))
    assert not re.findall(r'(?:src|href)="(?!#)', text)
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


def test_text_is_escaped(model):
    error = meristem.SizeError(NASTY, fact=NASTY)
    text = page(model, refusal=error, title=NASTY, command=NASTY)
    assert NASTY not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4


def test_where_a_page_cannot_be_written(model, tmp_path):
    for path, said in (
        (tmp_path / "page.onnx", "ends in .html"),
        (tmp_path / "none" / "page.html", "is not a folder"),
    ):
        with pytest.raises(meristem.OutputError, match=said):
            model.report(path)
    (tmp_path / "page.html").mkdir()
    with pytest.raises(meristem.OutputError, match="is a folder"):
        model.report(tmp_path / "page.html")


def test_a_page_is_replaced(model, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    assert model.report(path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")

"""Checkpoints are there whole or not at all."""

import json
import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from meristem.rewrite.errors import CarrierError, OutputError
from meristem.training import checkpoint


def things(seed=0, kind=torch.optim.Adam):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = kind(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    return module, optimizer, scheduler


def step(module, optimizer, scheduler):
    loss = module(torch.randn(5, 3)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    return loss.item()


def test_everything_comes_back(tmp_path):
    ours = things()
    step(*ours)
    path = checkpoint.save(tmp_path, 1, *ours, data={"at": [1, "a"]}, tensors={"x": torch.ones(2)})
    drawn = random.random(), np.random.rand(), step(*ours)
    saved = checkpoint.load(tmp_path)
    assert (saved.path, saved.step, saved.data) == (path, 1, {"at": [1, "a"]})
    assert torch.equal(saved.tensors["x"], torch.ones(2))
    theirs = things(seed=3)
    checkpoint.restore(saved, *theirs)
    assert (random.random(), np.random.rand(), step(*theirs)) == drawn
    assert theirs[2].state_dict() == ours[2].state_dict()
    assert checkpoint.load(tmp_path / "none") is None


def test_the_last_ones_are_kept(tmp_path):
    ours = things()
    for number in (1, 2, 2, 10):
        checkpoint.save(tmp_path, number, *ours, keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-2.1", "step-10"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-2.1"]
    with pytest.raises(OutputError, match="keep=0"):
        checkpoint.save(tmp_path, 11, *ours, keep=0)


@pytest.mark.parametrize("number", range(7))
def test_a_process_that_dies_while_it_writes_leaves_the_one_before(tmp_path, monkeypatch, number):
    """It dies at the write of each file, and before the rename."""
    ours = things()
    checkpoint.save(tmp_path, 1, *ours)
    calls = []

    class Killed(BaseException):
        pass

    def dying(before):
        def call(*args, **kwargs):
            calls.append(before)
            if len(calls) > number:
                raise Killed
            return before(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", dying(torch.save))
        patch.setattr(checkpoint.os, "fsync", dying(os.fsync))
        patch.setattr(checkpoint, "_remove", lambda path: None)  # the dead do not tidy up
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, 2, *ours)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-1"]
    (part,) = (p for p in tmp_path.iterdir() if p.name.startswith("."))
    part.rename(part.with_name(".step-2.999999999.part"))  # of a process that is no more
    assert checkpoint.latest(tmp_path).name == "step-1"
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    assert checkpoint.save(tmp_path, 2, *ours).name == "step-2"


def test_what_does_not_fit_changes_nothing(tmp_path):
    ours = things()
    step(*ours)
    checkpoint.save(tmp_path, 1, *ours)
    saved = checkpoint.load(tmp_path)
    narrow = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    wrong_state = things(kind=torch.optim.Adam)
    wrong_state[1].param_groups[0]["params"].reverse()
    cases = [
        ((narrow,), r"another model: 2.weight is \(2, 4\) there and \(1, 4\) here"),
        ((nn.Linear(3, 4),), "another model"),
        (things(kind=torch.optim.SGD), "Adam as its optimizer, not of SGD"),
        (wrong_state, "another optimizer"),
        ((things()[0], torch.optim.Adam(narrow[:1].parameters())), "groups have"),
    ]
    for case, match in cases:
        before = {n: t.clone() for n, t in case[0].state_dict().items()}
        drawn = torch.get_rng_state()
        with pytest.raises(CarrierError, match=match):
            checkpoint.restore(saved, *case)
        assert all(torch.equal(t, before[n]) for n, t in case[0].state_dict().items())
        assert torch.equal(drawn, torch.get_rng_state())


def test_what_cannot_be_read_or_written_is_said(tmp_path):
    ours = things()
    with pytest.raises(OutputError, match="no plain data"):
        checkpoint.save(tmp_path, 1, *ours, data={"x": object()})
    assert not list(tmp_path.iterdir())
    path = checkpoint.save(tmp_path, 1, *ours)
    with pytest.raises(OutputError, match="there already"):
        checkpoint.write(path, lambda place: None)
    (path / "weights.pt").write_bytes(b"half")
    with pytest.raises(CarrierError, match="cannot be read"):
        checkpoint.load(tmp_path)
    about = json.loads((path / "about.json").read_text())
    (path / "about.json").write_text(json.dumps({**about, "meristem_checkpoint": 99}))
    with pytest.raises(CarrierError, match="another version"):
        checkpoint.load(path)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="was not written"):
        checkpoint.save(file / "under", 1, *ours)

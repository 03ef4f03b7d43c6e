"""Growth under Hugging Face Trainer: it stops and goes on; every checkpoint is resumed exactly."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import meristem
from meristem.integrations import TrainerGrowth, from_config
from meristem.integrations import trainer_growth as module_of_it
from meristem.integrations.trainer_growth import last_complete
from meristem.training import AtFlops, AtStep, Plateau, Schedule, Stage
from tests.integrations.models import Config, Tagger, examples, tagger

STEPS = 9


def once():
    return Schedule([Stage({"mlp": "x2"}, AtStep(4))])


def twice():
    return Schedule([Stage({"mlp": "x2"}, AtStep(4)), Stage({"layers": 3}, AtStep(7))])


def trainer(folder, schedule, *, model=None, growth=None, **arguments):
    given = {"save_steps": 3, "logging_steps": 1, "max_steps": STEPS, "learning_rate": 1e-2}
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True,
        warmup_steps=2, weight_decay=0.1, **{**given, **arguments},
    )  # fmt: skip
    growth = growth or TrainerGrowth(schedule)
    made = Trainer(
        model or tagger(), arguments, train_dataset=examples(20), eval_dataset=examples(8, 1),
        callbacks=[growth],
    )  # fmt: skip
    return made, growth


def losses(made):
    return {e["step"]: e["loss"] for e in made.state.log_history if "loss" in e}


def checkpoints(folder):
    return sorted(int(p.name.split("-")[1]) for p in Path(folder).glob("checkpoint-*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    made, growth = trainer(folder, once())
    output = growth.train(made)
    return folder, made, growth, output


def test_it_grows_and_goes_on_at_the_next_step(undisturbed):
    folder, made, growth, output = undisturbed
    assert output.global_step == made.state.global_step == STEPS
    assert sorted(losses(made)) == list(range(1, STEPS + 1))
    (entry,) = (e for e in made.state.log_history if "growth" in e)
    (told,) = growth.growths
    assert entry["step"] == told["step"] == 4
    before, after = told["parameters"]
    assert [entry["growth/parameters_before"], entry["growth/parameters"]] == [before, after]
    assert after == sum(p.numel() for p in made.model.parameters()) > before
    assert [entry["growth/flops_before"], entry["growth/flops"]] == told["flops"]
    assert 0 < told["flops"][0] < told["flops"][1]
    assert told["changes"] == {"mlp@blocks.0": [6, 12], "mlp@blocks.1": [6, 12]}
    assert checkpoints(folder) == [3, 4, 6, STEPS]
    others = {p.name for p in folder.iterdir() if not p.name.startswith("checkpoint")}
    assert others == {module_of_it.EXAMPLE}
    with pytest.raises(meristem.MeristemError, match="been through a run"):
        growth.train(made)


@pytest.mark.full
def test_the_step_after_growth_is_that_of_the_small_model(undisturbed, tmp_path):
    """No jump: the loss on the next batch is what the small model has there, dropout left out."""
    _, made, _, _ = undisturbed
    small, growth = trainer(tmp_path, once())
    small.model.blocks[0].drop.p = small.model.blocks[1].drop.p = 0.0
    quiet = losses_of(small, growth)
    plain, _ = trainer(tmp_path / "plain", once())
    plain.model.blocks[0].drop.p = plain.model.blocks[1].drop.p = 0.0
    plain.callback_handler.callbacks.pop(-2)
    plain.train()
    for step in range(1, 6):
        assert abs(quiet[step] - losses(plain)[step]) < 1e-6
    assert abs(quiet[STEPS] - losses(plain)[STEPS]) > 1e-6  # from then on it is another model
    assert losses(made) != quiet


def losses_of(made, growth):
    growth.train(made)
    return losses(made)


@pytest.mark.parametrize("step", [6, pytest.param(3, marks=pytest.mark.full)])
def test_a_checkpoint_is_resumed_from_the_small_model(undisturbed, tmp_path, step):
    """Before the growth, and after it; the loss is the same to the last bit."""
    folder, made, _, _ = undisturbed
    start = shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    again, growth = trainer(tmp_path, once(), model=tagger(seed=5))
    growth.train(again, resume_from_checkpoint=str(start))
    assert losses(again) == losses(made)
    assert len(growth.growths) == 1
    ours, theirs = again.model.state_dict(), made.model.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


@pytest.mark.full
def test_a_run_that_dies_while_it_grows_grows_again(undisturbed, tmp_path, monkeypatch):
    _, made, _, _ = undisturbed
    first, growth = trainer(tmp_path, once())

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module_of_it, "grow", die)
        with pytest.raises(KeyboardInterrupt):
            growth.train(first)
    # And a checkpoint of which only a part was written.
    part = shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-5")
    state = part / "trainer_state.json"
    state.write_text(state.read_text()[:200])
    assert Path(last_complete(tmp_path)).name == "checkpoint-4"
    again, growth = trainer(tmp_path, once(), model=tagger(seed=5))
    growth.train(again, resume_from_checkpoint=True)
    assert losses(again) == losses(made)
    assert last_complete(tmp_path / "nothing") is None


@pytest.mark.full
def test_old_checkpoints_are_rotated_and_the_best_is_loaded(tmp_path):
    """Also where the best model is smaller than the last one, and one checkpoint alone is kept."""
    made, growth = trainer(
        tmp_path, twice(), save_total_limit=1, load_best_model_at_end=True, eval_strategy="steps",
        eval_steps=3, metric_for_best_model="eval_worse", save_steps=3, max_steps=12,
    )  # fmt: skip
    made.compute_metrics = lambda prediction: {"worse": float(made.state.global_step)}
    made.args.greater_is_better = False  # the first evaluation is the best
    seen = []
    save = made._save_checkpoint

    def watched(*args):
        save(*args)
        seen.append(checkpoints(tmp_path))

    made._save_checkpoint = watched
    growth.train(made)
    assert made.state.best_global_step == 3
    assert seen == [[3], [3, 4], [3, 6], [3, 7], [3, 9], [3, 12]]
    assert made.args.load_best_model_at_end
    assert made.args.save_total_limit == 1
    assert isinstance(made.model, Tagger)
    assert made.model.blocks[0].up.out_features == 6
    assert growth.history.stage == 0


@pytest.mark.full
def test_the_best_of_grown_models_is_loaded(tmp_path):
    made, growth = trainer(
        tmp_path, twice(), save_total_limit=2, load_best_model_at_end=True, eval_strategy="steps",
        eval_steps=3, metric_for_best_model="eval_near",
    )  # fmt: skip
    made.compute_metrics = lambda prediction: {"near": -abs(made.state.global_step - 6.0)}
    made.args.greater_is_better = True
    growth.train(made)
    assert made.state.best_global_step == 6
    assert growth.history.stage == 1
    weights = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    own = made.model.state_dict()
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[n], weights[n]) for n in weights)
    assert weights["blocks.0.up.weight"].shape == (12, 8)


@pytest.mark.full
def test_the_own_class_goes_on(tmp_path):
    """rebuild=: the larger model is the class itself, with a config that says so."""
    rebuild = from_config(mlp="mlp", layers="layers")
    schedule = twice()
    made, growth = trainer(tmp_path, schedule, growth=TrainerGrowth(schedule, rebuild=rebuild))
    growth.train(made)
    assert isinstance(made.model, Tagger)
    assert vars(made.model.config) == {**vars(Config(mlp=12, layers=3)), "use_cache": False}
    again, growth = trainer(tmp_path, schedule, growth=TrainerGrowth(twice(), rebuild=rebuild))
    growth.train(again, resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert losses(again) == losses(made)
    assert vars(again.model.config) == vars(made.model.config)


def language_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=32, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        row = (torch.arange(8) * 3 + index) % 32
        return {"input_ids": row, "labels": row}


@pytest.mark.full
@pytest.mark.parametrize("own_class", [True, False])
def test_a_language_model_with_tied_weights(tmp_path, own_class):
    """Its own loss, its own way to save; gradients are accumulated, and the loss counts their tokens."""
    fields = {"intermediate_size": "mlp", "num_hidden_layers": "layers"}
    rebuild = from_config(**fields) if own_class else None

    def run(folder, start=None, seed=0):
        schedule = Schedule([Stage({"mlp": "x2", "layers": 3}, AtStep(3))])
        made, growth = trainer(
            folder, schedule, model=language_model(seed), growth=TrainerGrowth(schedule, rebuild=rebuild),
            max_steps=6, save_steps=2, gradient_accumulation_steps=2,
        )  # fmt: skip
        made.train_dataset = Sentences()
        growth.train(made, resume_from_checkpoint=start)
        return made, growth

    made, _ = run(tmp_path)
    again, _ = run(tmp_path, str(tmp_path / "checkpoint-4"), seed=1)
    assert losses(again) == losses(made)
    batch = torch.utils.data.default_collate([Sentences()[i] for i in range(4)])
    made.model.eval()
    if own_class:
        loaded = LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-6").eval()
        assert loaded.config.intermediate_size == 48
        assert loaded.config.num_hidden_layers == 3
        assert torch.equal(loaded(**batch).logits, made.model(**batch).logits)
    else:
        weights = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
        assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
        with pytest.raises(meristem.CarrierError, match="position_ids is unknown"):
            made.model(**batch, position_ids=torch.arange(8)[None])


@pytest.mark.full
def test_a_trigger_that_needs_a_loss(tmp_path):
    """It sees what is logged, here the evaluation's loss."""
    schedule = Schedule([Stage({"mlp": "x2"}, Plateau(patience=1, tolerance=0.9))])
    made, growth = trainer(
        tmp_path, schedule, growth=TrainerGrowth(schedule, watch="eval_loss"),
        eval_strategy="steps", eval_steps=2, logging_steps=100,
    )  # fmt: skip
    growth.train(made)
    evaluated = [e["step"] for e in made.state.log_history if "eval_loss" in e]
    assert [e["step"] for e in growth.growths] == [evaluated[1]]


def test_trainers_that_cannot_grow_are_refused(tmp_path):
    made, growth = trainer(tmp_path, once(), save_strategy="best", metric_for_best_model="loss",
                           eval_strategy="steps")  # fmt: skip
    with pytest.raises(meristem.MeristemError, match="best"):
        growth.train(made)
    made, growth = trainer(tmp_path, once(), save_only_model=True)
    with pytest.raises(meristem.MeristemError, match="save_only_model"):
        growth.train(made)
    with pytest.raises(meristem.MeristemError, match=r"callbacks=\[\.\.\.\]"):
        TrainerGrowth(once()).train(made)
    with pytest.raises(meristem.MeristemError, match=r"growth\.train"):
        made.train()
    with pytest.raises(meristem.MeristemError, match="flops"):
        TrainerGrowth(Schedule([Stage({"mlp": "x2"}, AtFlops(1e9))]))
    with pytest.raises(meristem.MeristemError, match="no schedule"):
        TrainerGrowth([Stage({"mlp": "x2"}, AtStep(4))])


def test_a_checkpoint_of_another_model_is_refused(undisturbed, tmp_path):
    folder, *_ = undisturbed
    made, growth = trainer(tmp_path, once(), model=tagger(hidden=10))
    before = {n: t.clone() for n, t in made.model.state_dict().items()}
    with pytest.raises(meristem.CarrierError, match=r"another model: .* is .*10.* here"):
        growth.train(made, resume_from_checkpoint=str(folder / "checkpoint-6"))
    assert all(torch.equal(t, before[n]) for n, t in made.model.state_dict().items())
    made, growth = trainer(tmp_path, Schedule([Stage({"mlp": "x3"}, AtStep(4))]))
    model = made.model
    with pytest.raises(meristem.MeristemError, match="another schedule"):
        growth.train(made, resume_from_checkpoint=str(folder / "checkpoint-6"))
    assert made.model is model


@pytest.mark.full
def test_stages_of_several_methods_share_a_loss(tmp_path):
    """It goes to the one that uses it, and the growth is repeated without it."""
    batch = torch.utils.data.default_collate(examples(4))

    def loss(module):
        return module(**batch)["loss"]

    schedule = Schedule(
        [Stage({"mlp": 8}, AtStep(2)), Stage({"mlp": 10}, AtStep(4), method="gradmax")]
    )
    made, growth = trainer(
        tmp_path, schedule, growth=TrainerGrowth(schedule, loss=loss), model=tagger(act="gelu")
    )
    growth.train(made)
    assert [e["method"] for e in growth.growths] == ["preserve", "gradmax"]
    growth = TrainerGrowth(schedule, loss=loss)
    again, _ = trainer(tmp_path, schedule, growth=growth, model=tagger(4, act="gelu"))
    growth.train(again, resume_from_checkpoint=f"{tmp_path}/checkpoint-6")
    assert losses(again) == losses(made)

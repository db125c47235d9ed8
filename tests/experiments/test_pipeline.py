"""From one command to a table, a figure and a learner that can be used, at a size that takes seconds."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import metalearn as ml
from experiments import few_shot, omniglot, sinusoid
from metalearn.report import read_results

pytestmark = pytest.mark.usefixtures("compile_once")


def small(settings, folder, **changes):
    sizes = {"log_every": 2, "validate_every": 2, "test_tasks": 3, "validation_tasks": 2, "tasks": 2}
    return replace(settings, **{"steps": 4, **sizes, "folder": str(folder), **changes})


@pytest.mark.slow
def test_sinusoid_from_command_to_table(tmp_path):
    settings = small(sinusoid.PRESETS["demo"][1], tmp_path, test_steps=(0, 1, 2), seeds=(0, 1))
    sinusoid.main(settings)
    for name in (
        "table.md",
        "table.tex",
        "table.csv",
        "adaptation_curves.png",
        "learning_curves.png",
        "fits.png",
        "methods.bib",
    ):
        assert (tmp_path / name).stat().st_size > 100, name
    for name in (
        "config.json",
        "environment.json",
        "log.jsonl",
        "results.json",
        "results.npz",
        "checkpoints",
        "tensorboard",
    ):
        assert (tmp_path / "maml" / name).exists(), name
    methods = ("maml", "finetune", "scratch")
    rows = {(row.method, row.adapt_steps): row for method in methods for row in read_results(tmp_path / method)}
    assert len(rows) == 9
    assert rows["MAML", 1].values.shape == (2, 3)  # seeds, tasks
    assert len({row.protocol for row in rows.values()}) == 1
    # a step changes predictions, and what is in the table is the mean of what was measured
    assert rows["MAML", 1].mean != rows["MAML", 0].mean
    assert rows["MAML", 1].mean == pytest.approx(float(np.mean(rows["MAML", 1].values)), rel=1e-5)
    assert rows["From scratch", 0].budget == 0
    assert np.all(rows["From scratch", 1].values[0] != rows["From scratch", 1].values[1])  # a start of its own a seed

    # the parameters are those of the best checkpoint, one for each seed, and the same call changes nothing
    before = (tmp_path / "maml/log.jsonl").read_text()
    one = replace(settings, method="maml", beside=(), folder=f"{tmp_path}/maml")
    params = few_shot.train(one, sinusoid.problem(one))
    assert len(params) == 2
    assert (tmp_path / "maml/log.jsonl").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["maml", "fomaml", "anil", "meta_sgd", "reptile", "protonet", "finetune", "scratch"])
def test_omniglot_from_command_to_predictions(tmp_path, method):
    try:
        images = ml.data.omniglot().test
    except ml.InputError as error:
        pytest.skip(str(error))
    name = {"reptile": "reptile-5way-1shot", "protonet": "protonet-1shot"}.get(
        method, f"compare-{method.replace('_', '-')}"
    )
    settings = small(omniglot.PRESETS[name][1], tmp_path, width=4, test_steps=(0, 2), validation_steps=2)
    settings = replace(settings, ways=5, test_ways=(), tuned_rates=settings.tuned_rates[:2])
    omniglot.main(settings)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(row["ways"] == 5 for row in rows)
    if method == "scratch":
        return  # it has nothing to load

    if method == "finetune":  # what is loaded adapts at the rate that was tested
        chosen = json.loads((tmp_path / "tuned.json").read_text())
        assert set(chosen["validation_loss"]) == {f"{rate:g}" for rate in settings.tuned_rates}
        assert few_shot.settings_of(str(tmp_path), omniglot.Settings).inner_rate == chosen["inner_rate"]
        assert chosen["inner_rate"] in settings.tuned_rates != (settings.inner_rate,)
    learner, params = omniglot.load(str(tmp_path))
    x = images.images[:5, :3].astype(np.float32)[..., None] / 255
    support = ml.data.check_batch(x[:, :1].reshape(5, 28, 28, 1), np.arange(5), num_ways=5)
    state = learner.adapt(params, support, jax.random.key(0))
    logits = learner.predict(state, x[:, 1:].reshape(10, 28, 28, 1))
    assert logits.shape == (10, 5)
    assert np.isfinite(logits).all()

"""The loop: it learns, logs, stops and goes on; what breaks is said in one line."""

import json
import os
import resource
import signal
from dataclasses import replace

import pytest
import torch
from tiny_task import PLAN, Clock, SquareLoader, TinyNet, build, small_recipe

from unetkit.checkpoint import load_checkpoint
from unetkit.engine.faults import Load, explained, out_of_memory
from unetkit.engine.fit import READ_EVERY, Score, fit
from unetkit.engine.log import RunLog, read_log
from unetkit.engine.state import LAST, Progress, Saver
from unetkit.errors import CheckpointError, RecipeError


def weights(folder, name="last") -> dict[str, torch.Tensor]:
    found = load_checkpoint(folder, name, training=name == "last")
    return found.weights | {f"ema.{k}": v for k, v in found.ema.items()} | found.tensors


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_it_learns_and_keeps_the_best(make_job):
    recipe = small_recipe(epochs=6, ema=0.5)
    job = make_job(recipe)
    progress = fit(job, build(recipe))
    assert progress.step == 42
    assert progress.best > 0.8
    validations = [r["val_dice"] for r in read_log(job.folder / "log.jsonl") if "val_dice" in r]
    assert len(validations) == 6
    assert progress.best == max(validations)
    best = load_checkpoint(job.folder, "best")
    assert best.state["progress"]["best"] == progress.best
    assert best.ema
    assert not best.tensors


def test_the_log_has_each_step_range_once(make_job):
    recipe = small_recipe(epochs=8)
    job = make_job(recipe)
    fit(job, build(recipe))
    records = read_log(job.folder / "log.jsonl")
    steps = [r["step"] for r in records if "loss" in r]
    assert steps == sorted({*range(READ_EVERY, 57, READ_EVERY), *range(7, 57, 7)})
    assert [r["epoch"] for r in records if "epoch_loss" in r] == list(range(1, 9))
    assert all(0 <= r["loader_wait"] <= 1 and r["lr"] > 0 for r in records if "loss" in r)


class StopAt(SquareLoader):
    """Sends the process a signal while it prepares a batch."""

    def __init__(self, number: int, sent: int = signal.SIGINT) -> None:
        super().__init__()
        self.number, self.sent = number, sent

    def batch(self, number):
        if number == self.number:
            os.kill(os.getpid(), self.sent)
        return super().batch(number)


@pytest.mark.parametrize("moment", [1, 9, 14, 20])
def test_ctrl_c_saves_and_the_resumed_run_ends_the_same(make_job, moment):
    recipe = small_recipe(ema=0.9)
    alone, cut = make_job(recipe, name="alone"), make_job(recipe, StopAt(moment), name="cut")
    fit(alone, build(recipe))
    with pytest.raises(KeyboardInterrupt):
        fit(cut, build(recipe))
    assert load_checkpoint(cut.folder, "last").state["progress"]["step"] == moment
    resumed = make_job(recipe, name="cut")
    fit(resumed, build(recipe, TinyNet()))
    assert_same(weights(alone.folder), weights(cut.folder))
    assert_same(weights(alone.folder, "best"), weights(cut.folder, "best"))


def test_ctrl_c_within_a_step_waits_for_its_end(make_job):
    class Interrupting(TinyNet):
        calls = 0

        def forward(self, image):
            Interrupting.calls += self.training
            if Interrupting.calls == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(image)

    recipe = small_recipe()
    job = make_job(recipe)
    with pytest.raises(KeyboardInterrupt):
        fit(job, build(recipe, Interrupting()))
    assert load_checkpoint(job.folder, "last").state["progress"]["step"] == 5


def test_resume_with_fp16_and_accumulation_is_exact(make_job):
    recipe = small_recipe(precision="fp16", accumulate=2, optimizer={"name": "adamw", "lr": 0.01})
    alone, cut = make_job(recipe, name="alone"), make_job(recipe, StopAt(21), name="cut")
    fit(alone, build(recipe))
    with pytest.raises(KeyboardInterrupt):
        fit(cut, build(recipe))
    fit(make_job(recipe, name="cut"), build(recipe))
    assert_same(weights(alone.folder), weights(cut.folder))


def test_a_finished_run_resumed_changes_nothing(make_job):
    recipe = small_recipe()
    job = make_job(recipe)
    fit(job, build(recipe))
    before, log = weights(job.folder), (job.folder / "log.jsonl").read_bytes()
    fit(job, build(recipe))
    assert_same(before, weights(job.folder))
    assert (job.folder / "log.jsonl").read_bytes() == log


def test_nan_names_step_cases_and_remedy_and_saves_nothing(make_job):
    recipe = small_recipe(checkpoint_steps=4)
    job = make_job(recipe, SquareLoader(poison=9))
    with pytest.raises(
        RecipeError, match=r"step 9: the loss is nan .*cases case9_0, case9_1.*lower train\.optimizer\.lr"
    ):
        fit(job, build(recipe))
    assert load_checkpoint(job.folder, "last").state["progress"]["step"] == 8


def test_max_minutes_ends_early_and_validates(make_job):
    recipe = small_recipe(epochs=1000, max_minutes=0.02, validate_every=500)
    job = make_job(recipe)
    progress = fit(job, build(recipe))
    assert 0 < progress.step < 7000
    assert read_log(job.folder / "log.jsonl")[-1]["val_dice"] == progress.best


def test_time_that_is_over_at_the_end_of_an_epoch_validates_too(make_job):
    recipe = small_recipe(epochs=10**6, max_minutes=0.01, validate_every=10**6)
    job = replace(make_job(recipe), steps_per_epoch=1)
    progress = fit(job, build(recipe))
    validated = [r["step"] for r in read_log(job.folder / "log.jsonl") if "val_dice" in r]
    assert validated == [progress.step]


def test_minutes_alone_are_a_whole_schedule_with_validations_at_equal_shares(make_job, monkeypatch, capsys):
    monkeypatch.setattr("unetkit.engine.fit.time", Clock(0.05))
    recipe = small_recipe(epochs=None, max_minutes=1.0, validations=4, schedule={"name": "cosine"})
    job = replace(make_job(recipe), shown=True, steps_per_epoch=2)
    progress = fit(job, build(recipe))
    records = read_log(job.folder / "log.jsonl")
    rates = [r["lr"] for r in records if "loss" in r]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.049
    assert rates[-1] < 1e-3
    done = [r["seconds"] / 60 for r in records if "val_dice" in r]
    # at the end of the first epoch after each quarter, an epoch being some hundredth of the minute
    assert done == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.03)
    assert "stopped" not in records[-1]
    assert "stopped early" not in capsys.readouterr().err
    assert fit(job, build(recipe)).step == progress.step  # resumed it stays ended


def test_resumed_the_schedule_by_the_clock_goes_on_where_it_was(make_job, monkeypatch):
    monkeypatch.setattr("unetkit.engine.fit.time", Clock(0.05))
    recipe = small_recipe(epochs=None, max_minutes=1.0, validations=2)
    with pytest.raises(KeyboardInterrupt):
        fit(make_job(recipe, StopAt(60), name="cut"), build(recipe))
    folder = make_job(recipe, name="cut").folder
    at = load_checkpoint(folder, "last").state["progress"]["seconds"]
    assert 5 < at < 55
    monkeypatch.setattr("unetkit.engine.fit.time", Clock(0.05))
    fit(make_job(recipe, name="cut"), build(recipe))
    later = [r for r in read_log(folder / "log.jsonl") if "loss" in r and r["step"] > 60]
    assert later[0]["lr"] < 0.05 * (1 - at / 60) ** 0.9 + 1e-6
    assert 58 < read_log(folder / "log.jsonl")[-1]["seconds"] < 64


@pytest.mark.parametrize(("wanted", "epochs"), [(2, [3, 6]), (4, [2, 3, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (1, [6])])
def test_validations_are_as_many_as_asked_at_equal_shares_of_the_steps(make_job, wanted, epochs):
    recipe = small_recipe(epochs=6, validations=wanted, validate_every=1)
    job = make_job(recipe)
    fit(job, build(recipe))
    assert [r["epoch"] for r in read_log(job.folder / "log.jsonl") if "val_dice" in r] == epochs


def test_a_training_has_an_end():
    with pytest.raises(ValueError, match=r"epochs=null needs max_minutes=NUMBER"):
        small_recipe(epochs=None)


class Scripted:
    """Validation scores as a list says, NaN after its end; number `interrupt` raises KeyboardInterrupt."""

    def __init__(self, *scores: float, interrupt: int | None = None) -> None:
        self.scores, self.interrupt, self.calls = [*scores], interrupt, 0

    def __call__(self, network: torch.nn.Module) -> Score:
        self.calls += 1
        if self.calls == self.interrupt:
            raise KeyboardInterrupt
        mean = self.scores.pop(0) if self.scores else float("nan")
        return Score(mean, {"square": mean})


def test_patience_ends_after_so_many_validations_without_a_better_one(make_job, capsys):
    recipe = small_recipe(epochs=20, patience=2)
    job = replace(make_job(recipe), validate=Scripted(0.2, 0.5, 0.5, 0.6, 0.1), shown=True)
    progress = fit(job, build(recipe))
    assert (progress.epochs, progress.best, progress.best_step) == (6, 0.6, 28)  # an equal one is not better, nor NaN
    last = read_log(job.folder / "log.jsonl")[-1]
    assert last["stopped"] == "train.patience=2 validations, none better than 0.6000 of step 28"
    assert f"stopped early: {last['stopped']}" in capsys.readouterr().err
    assert fit(job, build(recipe)).step == progress.step  # resumed it stays ended


def test_patience_goes_on_counting_after_a_restart(make_job):
    recipe = small_recipe(epochs=20, patience=3)
    job = replace(make_job(recipe), validate=Scripted(0.5, 0.4, interrupt=3))
    with pytest.raises(KeyboardInterrupt):
        fit(job, build(recipe))
    progress = fit(replace(job, validate=Scripted(0.3, 0.2)), build(recipe))
    assert (progress.epochs, progress.stale) == (4, 3)


def test_a_checkpoint_of_another_network_is_refused(make_job):
    recipe = small_recipe()
    job = make_job(recipe)
    fit(job, build(recipe))
    with pytest.raises(CheckpointError, match="another model"):
        fit(job, build(recipe, TinyNet(norm=False)))


def test_out_of_memory_names_the_batch_and_a_way_out(make_job):
    class Greedy(TinyNet):
        def forward(self, image):
            return super().forward(image) + torch.empty(1 << 50)

    recipe = small_recipe()
    with pytest.raises(RecipeError, match=r"step 0 \(cases case0_0, case0_1\): out of memory .*batch_size=1") as caught:
        fit(make_job(recipe), build(recipe, Greedy()))
    assert "\n" not in str(caught.value)


def test_bugs_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes differ"), explained("step 0", Load(PLAN, 1, "fp32")):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("batch", "accumulate", "remedy"),
    [
        (4, 1, "train.batch_size=2 train.accumulate=2"),
        (3, 4, "train.batch_size=1 train.accumulate=8"),
        (1, 4, "data.patch_size=["),
    ],
)
def test_out_of_memory_halves_the_batch_and_doubles_what_is_accumulated(batch, accumulate, remedy):
    load = Load(replace(PLAN, batch_size=batch), accumulate, "bf16")
    assert f"try {remedy}" in out_of_memory("step 0", load)


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    log = RunLog(tmp_path)
    log.write({"step": 1})
    position = log.position
    log.write({"step": 2})
    log.close()
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "lo')  # killed while writing
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl")] == [1, 2]
    again = RunLog(tmp_path, position)
    again.write({"step": 2})
    again.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_piped_output_is_one_line_an_epoch(make_job, capsys):
    recipe = small_recipe()
    fit(replace(make_job(recipe), shown=True), build(recipe))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "after 3 steps",
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
    ]


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_checkpoint(make_job):
    recipe = small_recipe(checkpoint_steps=4)
    job = make_job(recipe)
    Saver(job.folder, recipe, PLAN).save(LAST, build(recipe), Progress())
    before = (job.folder / LAST).read_bytes()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # no file may grow larger
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*last\.safetensors") as caught:
            fit(job, build(recipe))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(caught.value)
    assert (job.folder / LAST).read_bytes() == before
    assert sorted(path.name for path in job.folder.iterdir()) == [LAST, "log.jsonl"]


def test_an_operator_that_cannot_be_deterministic_is_named(make_job):
    class Scattering(TinyNet):
        def forward(self, image):
            image.put_(torch.tensor([0]), image.new_zeros(1))
            return super().forward(image)

    recipe = small_recipe(deterministic=True)
    with pytest.raises(RecipeError, match=r"train\.deterministic=true: put_ has no deterministic form.*=false"):
        fit(make_job(recipe), build(recipe, Scattering()))
    assert not torch.are_deterministic_algorithms_enabled()


def test_tensorboard_gets_the_same_numbers(make_job):
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    recipe = small_recipe(tensorboard=True)
    job = make_job(recipe)
    fit(job, build(recipe))
    assert list((job.folder / "tensorboard").glob("events.*"))

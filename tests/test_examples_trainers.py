"""Lightning and Hugging Face's `Trainer`: losses that arrive, accumulation, schedulers,
mixed precision, runs that are continued.
"""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
lightning = pytest.importorskip("lightning", reason="lightning is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

import hugging_face_trainer  # noqa: E402
import lightning_fit  # noqa: E402
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402

from lopt.torch import LearnedOptimizer  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def seen(optimizer):
    """The loss of the last steps, as the optimizer keeps it: of one step, that loss."""
    return next(iter(optimizer.state.values()))["log_loss"].exp()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert torch.equal(x, theirs[name]), name


class Digits(lightning_fit.Digits):
    """The example's, over a schedule of its own, if any."""

    schedule = None

    def configure_optimizers(self):
        self.trained_by = super().configure_optimizers()
        if self.schedule is None:
            return self.trained_by
        scheduler = {
            "scheduler": LambdaLR(self.trained_by, self.schedule),
            "interval": "step",
        }
        return {"optimizer": self.trained_by, "lr_scheduler": scheduler}


def digits(num_batches, batch_size=32):
    """Always the same ones, in the same order."""
    data = lightning_fit.digits().dataset
    rows = torch.utils.data.Subset(data, range(num_batches * batch_size))
    return torch.utils.data.DataLoader(rows, batch_size)


def lightning_trainer(folder, **options):
    settings = {"accelerator": "cpu", "logger": False, "default_root_dir": folder}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "max_epochs": 1}
    return lightning.Trainer(**settings | options)


def fit(model, folder, num_batches=1, *, ckpt_path=None, **options):
    trainer = lightning_trainer(folder, **options)
    trainer.fit(model, digits(num_batches), ckpt_path=ckpt_path)
    return trainer


def loop(model, batches, num_steps):
    """The same without Lightning."""
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=num_steps)
    for batch in batches:
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        optimizer.step(loss=loss)


def test_lightning_does_what_a_loop_does(tmp_path):
    model = Digits()
    other = copy.deepcopy(model)
    fit(model, tmp_path, 3)
    loop(other, digits(3), num_steps=3)
    assert_same(weights(model), weights(other))
    assert model.losses == other.losses


def test_lightning_accumulates(tmp_path):
    """Its closures return the loss of the last batch over their number."""
    model = Digits()
    fit(model, tmp_path, 3, accumulate_grad_batches=3)
    assert len(model.losses) == 3
    torch.testing.assert_close(
        seen(model.trained_by), torch.full((3,), model.losses[-1] / 3), rtol=1e-5, atol=0
    )


def test_lightning_schedules(tmp_path):
    model = Digits()
    model.schedule = lambda step: float(step == 0)
    other = copy.deepcopy(model)
    fit(model, tmp_path, 3)
    loop(other, digits(1), num_steps=3)
    assert len(model.losses) == 3
    assert_same(weights(model), weights(other))


def test_lightning_in_bfloat16(tmp_path):
    model = Digits()
    fit(model, tmp_path, 16, precision="bf16-mixed")
    assert model.losses[-1] < 0.5 * model.losses[0]
    assert next(iter(model.trained_by.state.values()))["log_loss"].dtype == torch.float32


class Scaled(Digits):
    """In float16 Lightning calls closures by itself, and steps without a loss."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.training_step = optimizer.reading(self.training_step)
        return optimizer


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_lightning_in_float16_reads_the_loss(tmp_path):
    model = Scaled()
    fit(model, tmp_path, 1, plugins=[scaled()])
    expected = torch.full((3,), model.losses[0])
    torch.testing.assert_close(seen(model.trained_by), expected, rtol=1e-5, atol=0)
    with pytest.raises(TypeError, match=r"optimizer\.reading"):
        fit(Digits(), tmp_path, 1, plugins=[scaled()])


def test_lightning_continues(tmp_path):
    """Of six steps in three epochs, the last four again, from a checkpoint."""
    model = Digits()
    start = copy.deepcopy(model.state_dict())
    fit(model, tmp_path, 2, max_epochs=3)
    first, again = Digits(), Digits()
    first.load_state_dict(start)
    trainer = lightning_trainer(tmp_path, max_epochs=3)
    stop = StopAfter(1, tmp_path / "one.ckpt")
    trainer.callbacks.append(stop)
    trainer.fit(first, digits(2))
    fit(again, tmp_path, 2, max_epochs=3, ckpt_path=tmp_path / "one.ckpt")
    assert first.losses + again.losses == model.losses
    assert_same(weights(again), weights(model))


class StopAfter(lightning.Callback):
    """Saves and stops after so many epochs."""

    def __init__(self, num_epochs, path):
        self.num_epochs, self.path = num_epochs, path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch + 1 == self.num_epochs:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def hugging_face(folder, num_steps, **options):
    settings = {"output_dir": folder, "use_cpu": True, "logging_steps": 1}
    settings |= {"per_device_train_batch_size": 2}
    made = hugging_face_trainer.trainer(num_steps, **settings | options)
    made.train_dataset = made.train_dataset[:24]
    return made


def losses(made):
    return [float(e["loss"]) for e in made.state.log_history if "loss" in e]


def optimizer_of(made):
    """The learned one, which accelerate has wrapped."""
    return made.optimizer.optimizer


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_hugging_face_hands_over_what_gradients_are_of(micro, tmp_path):
    """The mean of all examples of a step, however many go through the model at once."""
    sizes = {"per_device_train_batch_size": 4 // micro}
    made = hugging_face(tmp_path, 1, gradient_accumulation_steps=micro, **sizes)
    made.train_dataset = made.train_dataset[:4]
    rows = torch.stack([e["input_ids"] for e in made.train_dataset])
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        expected = made.model(input_ids=rows, labels=rows).loss
    expected *= 63 / 64  # the trainer counts the first byte, which nothing predicts
    made.train()
    got = seen(optimizer_of(made))
    torch.testing.assert_close(got, expected.expand(3), rtol=1e-5, atol=0)


def test_hugging_face_without_reading_says_what_to_do(tmp_path):
    made = hugging_face(tmp_path, 2)
    del made.training_step
    with pytest.raises(TypeError, match=r"training_step = optimizer\.reading\(trainer"):
        made.train()


def test_hugging_face_schedules(tmp_path):
    made = hugging_face(tmp_path, 4, lr_scheduler_type="linear")
    made.train()
    rates = [e["learning_rate"] for e in made.state.log_history if "loss" in e]
    assert [float(rate) for rate in rates] == [1.0, 0.75, 0.5, 0.25]
    assert optimizer_of(made).param_groups[0]["lr"] == 0.0


def test_hugging_face_in_bfloat16(tmp_path):
    made = hugging_face(tmp_path, 6, bf16=True)
    made.train()
    assert losses(made)[-1] < 0.95 * losses(made)[0]


def test_hugging_face_continues(tmp_path):
    """From the middle: the same losses, the same weights."""
    options = {
        "save_strategy": "steps",
        "save_steps": 2,
        "gradient_accumulation_steps": 2,
    }
    straight = hugging_face(tmp_path / "run", 4, **options)
    straight.train()
    again = hugging_face(tmp_path / "again", 4, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert losses(again) == losses(straight)
    assert_same(weights(again.model), weights(straight.model))


def test_a_scaler_of_accelerate_leaves_out_a_step():
    accelerate.Accelerator(cpu=True)
    model = torch.nn.Linear(3, 2)
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    wrapped = accelerate.optimizer.AcceleratedOptimizer(optimizer, scaler=scaler)

    @optimizer.reading
    def training_step(factor):
        loss = model(torch.ones(4, 3)).square().mean()
        scaler.scale(factor * loss).backward()
        return loss.detach()

    before = weights(model)
    training_step(torch.inf)
    wrapped.step()
    assert wrapped.step_was_skipped
    assert_same(weights(model), before)
    wrapped.zero_grad()
    loss = training_step(1.0)
    wrapped.step()
    torch.testing.assert_close(seen(optimizer), loss.expand(3), rtol=1e-5, atol=0)
    assert not torch.equal(model.weight, before["weight"])

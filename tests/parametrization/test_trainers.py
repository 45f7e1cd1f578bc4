"""Other people's training loops get a plan's groups and train as the plain loop does."""

import warnings

import pytest
import torch
from small_nets import (
    features_in,
    loss_of,
    mlp,
    mlp_batches,
    planned_mlp,
    planned_transformer,
    same_weights,
    text_batches,
    train,
)
from torch import nn

from isoscale import parametrize

STEPS = 4


def plain(planned, batches):
    model, plan = planned()
    losses = train(model, torch.optim.AdamW(plan.param_groups()), batches)
    return model, losses


def test_lightning_takes_the_groups_from_configure_optimizers(tmp_path):
    lightning = pytest.importorskip("lightning", reason="pip install lightning")
    batches = mlp_batches(STEPS)
    model, plan = planned_mlp()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.losses = model, []

        def training_step(self, batch, index):
            loss = loss_of(self.model, batch)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(plan.param_groups(self.model))
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers and the length of an epoch
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    reference, losses = plain(planned_mlp, batches)
    assert module.losses == losses
    assert same_weights(model, reference)
    plan.check(trainer.optimizers[0])
    plan.check(module.optimizers())  # LightningOptimizer wraps it


def test_the_hf_trainer_takes_the_optimizer(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install transformers accelerate")
    pytest.importorskip("accelerate", reason="pip install accelerate")

    class WithLoss(nn.Module):
        """The trainer wants the loss from the forward."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, tokens, labels):
            return {"loss": loss_of(self.model, (tokens, labels))}

    batches = text_batches(STEPS)
    rows = [{"tokens": t, "labels": y} for tokens, targets in batches for t, y in zip(tokens, targets, strict=True)]
    model, plan = planned_transformer()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(batches[0][0]),
        max_steps=STEPS,
        lr_scheduler_type="linear",
        warmup_steps=2,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    optimizer = torch.optim.AdamW(plan.param_groups())
    trainer = transformers.Trainer(WithLoss(model), arguments, train_dataset=rows, optimizers=(optimizer, None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    plan.check(trainer.optimizer)

    reference, reference_plan = planned_transformer()
    optimizer = torch.optim.AdamW(reference_plan.param_groups())
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, STEPS)
    losses = []
    for batch in batches:
        losses += train(reference, optimizer, [batch])
        schedule.step()
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx(losses, abs=1e-4)  # the trainer logs four digits
    assert same_weights(model, reference)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_gradient_accumulation_is_the_big_batch(optimizer):
    """In float64 the two differ by the order of sums alone."""
    batches = mlp_batches(STEPS, size=8, dtype=torch.float64)
    big, plan = planned_mlp(optimizer=optimizer)
    losses = train(big.double(), optimizer(plan.param_groups()), batches)
    model, plan = planned_mlp(optimizer=optimizer)
    stepper = optimizer(plan.param_groups(model.double()))
    accumulated = []
    for x, y in batches:
        stepper.zero_grad()
        parts = [loss_of(model, half) / 4 for half in zip(x.chunk(4), y.chunk(4), strict=True)]
        for part in parts:
            part.backward()
        stepper.step()
        accumulated.append(sum(parts).item())
    assert accumulated == pytest.approx(losses, rel=1e-11)


def test_autocast_to_bfloat16_trains_near_float32():
    """bfloat16 keeps 8 bits: a loss of a few rounded maps is off by a few 2^-8 of itself, not more."""
    batches = text_batches(1, size=8) * 8
    _, losses = plain(planned_transformer, batches)
    model, plan = planned_transformer()
    optimizer = torch.optim.AdamW(plan.param_groups())
    rounded = []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rounded.append(loss.item())
    plan.check(optimizer)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert rounded == pytest.approx(losses, rel=8 * 2**-8)
    assert rounded[-1] < rounded[0] - 0.05


def test_a_bfloat16_model_is_planned_as_the_float32_one():
    """The factors are float64; a drawn entry and its rescaling are each rounded to 8 bits."""
    model, plan = planned_mlp()
    half, base = (mlp(*size, dtype=torch.bfloat16) for size in ((16, 4, 0), (8, 2, 7)))
    half_plan = parametrize(half, base, lr=0.01, weight_decay=0.1, example_inputs=features_in(torch.bfloat16))
    assert half_plan.table()["reason"].tolist() == plan.table()["reason"].tolist()
    for name, parameter in half.named_parameters():
        torch.testing.assert_close(parameter.float(), model.get_parameter(name), rtol=2**-7, atol=1e-9)
    x, y = mlp_batches(1)[0]
    losses = train(half, torch.optim.AdamW(half_plan.param_groups()), [(x.bfloat16(), y)] * 10)
    assert losses[-1] < losses[0]

"""An MLP trained by Lightning: the trial's plan goes into `configure_optimizers`, and nothing else changes.

isoscale transfer --train lightning_mlp.py:train --rule mup --optimizer adamw --widths 32 128 --steps 100
"""

import logging

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


def network(width):
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))


class Classifier(lightning.LightningModule):
    def __init__(self, model, plan):
        super().__init__()
        self.model, self.plan, self.curve = model, plan, []

    def training_step(self, batch, index):
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.curve.append(loss.item())
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.plan.param_groups(self.model))
        steps = self.trainer.estimated_stepping_batches
        # It multiplies every group's rate, so that their ratios stay.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 16, generator=generator)
    return TensorDataset(x, x[:, :4].argmax(1))


def train(trial):
    """isoscale's door: one trial in, the loss that counts and what else was measured out."""
    model = network(trial.width)
    plan = trial.parametrize(model, base=network(32), example_inputs=(torch.zeros(1, 16),))
    module = Classifier(model, plan)
    trainer = lightning.Trainer(
        max_steps=trial.steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=trial.folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(samples(1024, trial.seed), batch_size=trial.batch_size, shuffle=True))
    (found,) = trainer.validate(module, DataLoader(samples(512, 999), batch_size=512), verbose=False)
    yield from module.curve
    return {"loss": found["val_loss"]}

"""A plan, a measurement, a verdict and a limit with the core alone, and what is said where an extra is missing."""

import pandas as pd
import torch
from torch import nn

import isoscale
from isoscale import Runs

for name in isoscale.__all__:
    getattr(isoscale, name)


def net(width):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


batch = torch.ones(2, 4), torch.tensor([0, 1])
plan = isoscale.parametrize(net(16), base=net(8), rule="mup", lr=1e-3, example_inputs=batch[:1])
torch.optim.AdamW(plan.param_groups())
plan.table()
isoscale.measure.audit(net, batch, nn.functional.cross_entropy, widths=[4, 8], rule="mup", seeds=2)
rows = [(w, 2.0**k, s, 1 + 0.1 * (k + 3) ** 2 - w / 999) for w in (8, 16) for k in range(-6, 0) for s in (0, 1)]
table = pd.DataFrame(rows, columns=["width", "lr", "seed", "loss"])
table.to_csv("runs.csv", index=False)
found = isoscale.judge(Runs.read("runs.csv"))
print(found.answer, isoscale.report.table(found.data).shape, found._repr_html_()[:10])
isoscale.limit.simulate([[1.0, 1.0]], [1.0], steps=1, depth=2, width=8)
table.to_csv("runs.parquet", index=False)  # what is in it does not matter
spec = isoscale.Sweep(model="residual-mlp", dataset="synthetic", rule="sp", depths=[1], lrs=[0.1], seeds=1, steps=1)
lacking = {
    "parquet": lambda: Runs.read("runs.parquet"),
    "ray": lambda: isoscale.sweep(spec, store="isoscale.db", engine="ray"),
    "report": found.plot,
    "sweep": lambda: isoscale.sweep(spec, store="isoscale.db"),
    "tensorboard": lambda: isoscale.callbacks.TensorBoard("logs"),
    "wandb": lambda: isoscale.callbacks.WandB(project="mine"),
}
for extra, call in lacking.items():
    said = "nothing"
    try:
        call()
    except isoscale.errors.MissingExtraError as error:
        said = str(error)
    assert said.endswith(f"which is not installed: pip install 'isoscale[{extra}]'"), (extra, said)
    print(said)

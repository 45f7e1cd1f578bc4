"""A GPT on characters, trained as people train them: AdamW, warmup, cosine, clipping, bf16, gradient accumulation.

By itself:           python char_gpt.py --n_embd 64 --lr 0.01 --seed 0
As a function:       isoscale transfer --train char_gpt.py:train --rule mup --optimizer adamw --widths 32 64
As a program:        isoscale transfer --command "python char_gpt.py --n_embd {width} --lr {lr} --seed {seed}"
                         --loss-pattern "val loss ([0-9.]+)" --widths 32 64
As a model:          isoscale transfer --model char_gpt.py:make --rule mup --weight-decay 0.1 --widths 32 64
                         --schedule cosine --warmup 0.1 --clip 1 --accumulate 2 --autocast bfloat16
                         --metric char_gpt.py:val_loss --better lower
Finished runs:       isoscale judge runs.csv
"""

import argparse
import csv
import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import isoscale

BLOCK, BATCH, LAYERS, HEAD, STEPS = 32, 16, 2, 16, 60
# Of the forward pass: "float32" where a processor has no fast bf16.
PRECISION = getattr(torch, os.environ.get("CHAR_GPT_PRECISION", "bfloat16"))
TEXT = Path(os.environ.get("CHAR_GPT_TEXT", __file__)).read_text(encoding="utf-8")
CHARS = sorted(set(TEXT))
DATA = torch.tensor([CHARS.index(char) for char in TEXT])
SPLIT = int(0.9 * len(DATA))
EXAMPLE = (torch.zeros(1, BLOCK, dtype=torch.long),)


class Block(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.qkv, self.out = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.up, self.down = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)

    def forward(self, x):
        batch, length, n_embd = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(n_embd, dim=2)
        q, k, v = (part.view(batch, length, n_embd // HEAD, HEAD).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, n_embd))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.tokens, self.places = nn.Embedding(len(CHARS), n_embd), nn.Embedding(BLOCK, n_embd)
        self.blocks = nn.ModuleList(Block(n_embd) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, len(CHARS))

    def forward(self, index):
        x = self.tokens(index) + self.places(torch.arange(index.shape[1], device=index.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batch_of(data, generator):
    starts = torch.randint(len(data) - BLOCK - 1, (BATCH,), generator=generator)
    rows = torch.stack([data[start : start + BLOCK + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


def loss_of(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.bfloat16 == PRECISION):
        logits = model(batch[0])
    return val_loss(logits, batch[1])


def val_loss(logits, y):
    return F.cross_entropy(logits.float().flatten(0, 1), y.flatten())


def fit(model, groups, steps, seed):
    """Yields the training loss of each step."""
    optimizer = torch.optim.AdamW(groups)
    warmup = max(1, steps // 10)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        total = 0.0
        for _ in range(2):  # gradient accumulation
            loss = loss_of(model, batch_of(DATA[:SPLIT], generator)) / 2
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield total


def eval_batches():
    generator = torch.Generator().manual_seed(1234)
    return [batch_of(DATA[SPLIT:], generator) for _ in range(8)]


@torch.no_grad()
def validation(model):
    return sum(loss_of(model, batch).item() for batch in eval_batches()) / 8


def train(trial):
    """isoscale's door: one trial in, a loss a step out, and the loss that counts at the end."""
    torch.manual_seed(trial.seed)
    model = GPT(trial.width)
    plan = trial.parametrize(model, base=GPT(32), example_inputs=EXAMPLE, weight_decay=0.1, betas=(0.9, 0.95))
    yield from fit(model, plan.param_groups(), trial.steps, trial.seed)
    return validation(model)


def make(width):
    """The same model, for isoscale's own loop, with its batches, its loss and what it is judged by."""
    return GPT(width)


def batches(trial):
    generator = torch.Generator().manual_seed(trial.seed)
    while True:
        yield batch_of(DATA[:SPLIT], generator)


loss_fn = val_loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_embd", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rule", default="mup")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    model = GPT(given.n_embd)
    plan = isoscale.parametrize(
        model, base=GPT(32), rule=given.rule, optimizer="adamw", lr=given.lr, weight_decay=0.1, betas=(0.9, 0.95),
        example_inputs=EXAMPLE,
    )  # fmt: skip
    for _ in fit(model, plan.param_groups(), given.steps, given.seed):
        pass
    loss = validation(model)
    print(f"step {given.steps}: val loss {loss:.6f}")
    with open("runs.csv", "a", newline="") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(["n_embd", "learning_rate", "seed", "val_loss"])
        writer.writerow([given.n_embd, given.lr, given.seed, loss])


if __name__ == "__main__":
    main()

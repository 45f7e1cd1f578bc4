"""A small GPT-2 trained by the Trainer of Hugging Face: the trial's plan goes into `optimizers=`.

isoscale transfer --train hf_trainer.py:train --rule mup --optimizer adamw --widths 32 64 --steps 60
"""

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

VOCABULARY, LENGTH, HEAD = 64, 16, 16
EXAMPLE = {"input_ids": torch.zeros(1, LENGTH, dtype=torch.long)}


def network(width):
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=width, n_layer=2, n_head=width // HEAD,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def rows(count, seed):
    """Counting in steps of 1 to 3, with noise: a next token that can be learned."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(VOCABULARY, (count, 1), generator=generator)
    stride = torch.randint(1, 4, (count, 1), generator=generator)
    tokens = (first + stride * torch.arange(LENGTH)) % VOCABULARY
    return [{"input_ids": row, "labels": row} for row in tokens]


def train(trial):
    """isoscale's door: one trial in, the loss that counts out."""
    transformers.utils.logging.set_verbosity_error()
    model = network(trial.width)
    plan = trial.parametrize(model, base=network(32), example_inputs=EXAMPLE)
    arguments = TrainingArguments(
        output_dir=str(trial.folder), per_device_train_batch_size=trial.batch_size, max_steps=trial.steps,
        lr_scheduler_type="cosine", warmup_steps=trial.steps // 10, max_grad_norm=1.0, seed=trial.seed,
        use_cpu=trial.device == "cpu", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(plan.param_groups())
    trainer = Trainer(
        model, arguments, train_dataset=rows(512, trial.seed), eval_dataset=rows(128, 999), optimizers=(optimizer, None)
    )
    trainer.train()
    return {"loss": trainer.evaluate()["eval_loss"]}

"""Hugging Face's `Trainer` with a learned optimizer, on a small GPT-2 of bytes.

    python examples/hugging_face_trainer.py

Half a minute. The lines marked 1, 2 and 3 are lopt's.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import lopt
from lopt.torch import LearnedOptimizer

LENGTH = 64


def texts():
    """lopt's own text, as bytes: one example is 64 of them."""
    text = Path(lopt.__file__).with_name("corpus.txt").read_bytes()
    whole = np.frombuffer(text, np.uint8)[: len(text) // LENGTH * LENGTH]
    rows = torch.tensor(whole.reshape(-1, LENGTH), dtype=torch.int64)
    return [{"input_ids": row, "labels": row} for row in rows]


def trainer(num_steps=200, *, output_dir="runs/hugging_face_trainer", **options):
    torch.manual_seed(0)
    sizes = {"n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 4}
    config = GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes)
    model = GPT2LMHeadModel(config)
    settings = {
        "output_dir": output_dir,
        "max_steps": num_steps,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "constant",  # 1: its schedule is its own; "linear" else
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = TrainingArguments(**settings | options)
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=num_steps)  # 2
    made = Trainer(model, args, train_dataset=texts(), optimizers=(optimizer, None))
    made.training_step = optimizer.reading(made.training_step)  # 3: the loss, too
    return made


def main(num_steps=200, **options):
    made = trainer(num_steps, **options)
    made.train()
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


if __name__ == "__main__":
    main()

"""A language model of bytes, as nanoGPT has them, in PyTorch, with a learned optimizer.

    python examples/language_model_torch.py

Half a minute. The same weights, batches and optimizer as in language_model_jax.py: the
losses are the same, too. The lines marked 1 and 2 are lopt's.
"""

import torch
import torch.nn.functional as F
from language_model import HEADS, LAYERS, LENGTH, START, WIDTH, batches, save_start
from safetensors.torch import load_file
from torch import nn

from lopt.torch import LearnedOptimizer


def norm(x):
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.gather = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        heads = self.attend(norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.gather(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(norm(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(256, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.head = nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens):
        return self.head(norm(self.blocks(self.tokens(tokens) + self.positions.weight)))


def main(num_steps=200, start=START):
    model = Model()
    weights = load_file(start)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):  # [out, in] in PyTorch
            weights[f"{name}.weight"] = weights[f"{name}.weight"].T
    model.load_state_dict(weights)
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=num_steps)  # 1

    losses = []
    for step, batch in enumerate(batches(num_steps)):
        x = torch.from_numpy(batch).long()
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)  # 2
        losses.append(loss.item())
        if step % 20 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    save_start(START)
    main()

"""A plain PyTorch loop with a learned optimizer: `python examples/torch_loop.py`.

Ten seconds. The lines marked 1 and 2 are all that differs from `torch.optim.AdamW`.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from lopt.torch import LearnedOptimizer


def main(num_steps=300):
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=num_steps)  # 1

    losses = []
    for step in range(num_steps):
        rows = torch.randint(1500, (64,))
        loss = cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)  # 2: the loss, too
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}")

    right = model(x[1500:]).argmax(1) == y[1500:]
    print(f"accuracy on digits that were not trained on: {right.float().mean():.1%}")
    return losses


if __name__ == "__main__":
    main()

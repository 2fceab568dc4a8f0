"""PyTorch Lightning with a learned optimizer: `python examples/lightning_fit.py`.

Fifteen seconds. One line is lopt's, 1: Lightning steps by closures, and these return
the loss.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lopt.torch import LearnedOptimizer


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.losses = []
        self.net = nn.Sequential(
            nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self.net(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        num_steps = self.trainer.estimated_stepping_batches
        return LearnedOptimizer(self, "layerwise", num_steps=num_steps)  # 1

    def on_train_epoch_end(self):
        print(f"epoch {self.current_epoch}: loss {self.losses[-1]:.3f}")


def digits(batch_size=64):
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=True, drop_last=True)


def main(max_epochs=10, **options):
    lightning.seed_everything(0)
    model = Digits()
    settings = {"logger": False, "enable_checkpointing": False, **options}
    trainer = lightning.Trainer(max_epochs=max_epochs, **settings)
    trainer.fit(model, digits())
    return model.losses


if __name__ == "__main__":
    main()

"""Learned optimizers for PyTorch: from the same files, without jax.

Needs `pip install 'lopt[torch]'`. optimizer.py is what a training script sees, rule.py
the interface of what is behind it, rules/ has one update rule a file.
"""

from lopt.torch.optimizer import LearnedOptimizer as LearnedOptimizer
from lopt.torch.specs import param_specs as param_specs

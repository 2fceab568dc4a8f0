"""Task families: one file each, a factory `(**options) -> Task` in the table below."""

from collections.abc import Callable

from lopt.base import Task
from lopt.families.autoencoder import autoencoder
from lopt.families.convnet import convnet
from lopt.families.function import function
from lopt.families.in_context import in_context
from lopt.families.mlp import mlp
from lopt.families.quadratic import quadratic
from lopt.families.recurrent import recurrent
from lopt.families.regression import regression
from lopt.families.transformer import transformer
from lopt.families.vit import vit

FAMILIES: dict[str, Callable[..., Task]] = {
    "mlp": mlp,
    "convnet": convnet,
    "regression": regression,
    "autoencoder": autoencoder,
    "quadratic": quadratic,
    "function": function,
    "transformer": transformer,
    "recurrent": recurrent,
    "vit": vit,
    "in_context": in_context,
}

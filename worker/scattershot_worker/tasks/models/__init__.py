"""Owns the table of the built-in tasks' networks, by the value of the hyperparameter `model`."""

from scattershot_worker.tasks.models.cnn import cnn
from scattershot_worker.tasks.models.gru import gru
from scattershot_worker.tasks.models.linear import linear
from scattershot_worker.tasks.models.mlp import mlp
from scattershot_worker.tasks.models.resnet import resnet
from scattershot_worker.tasks.models.text_cnn import text_cnn
from scattershot_worker.tasks.models.transformer import transformer

#: Each takes an example's shape, the number of outputs and the hyperparameters.
TABULAR = {"linear": linear, "mlp": mlp}
IMAGES = {**TABULAR, "cnn": cnn, "resnet": resnet}
TEXT = {"cnn": text_cnn, "gru": gru, "transformer": transformer}

"""The samplers that a study file may name. A new one is a file here and a row in this table."""

from scattershot_master.samplers.random import RandomSampler
from scattershot_master.samplers.sampler import Sampler
from scattershot_master.samplers.sobol import SobolSampler

#: The names are those of `settings.Sampler`.
SAMPLERS: dict[str, type[Sampler]] = {
    "random": RandomSampler,
    "sobol": SobolSampler,
}

"""What a run is: the typed schema, the settings, the data-set catalog, and the few things every room shares."""

from configs.budget import at_budget
from configs.catalog import dataset_entry
from configs.errors import RequestError, RunError
from configs.explain import field_help, parse
from configs.load import dump, load, read, settings
from configs.schema import Config, Losses, PairsConfig, PhaseConfig

__all__ = [
    "Config",
    "Losses",
    "PairsConfig",
    "PhaseConfig",
    "RequestError",
    "RunError",
    "at_budget",
    "dataset_entry",
    "dump",
    "field_help",
    "load",
    "parse",
    "read",
    "settings",
]

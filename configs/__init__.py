"""What a run is: the typed schema, the settings, the data-set catalog, and the few things every room shares."""

from configs.errors import RequestError, RunError
from configs.load import at_budget, dataset_entry, describe, dump, load, pair_identity, parse, read, settings, share_epochs
from configs.schema import Config, Losses, Pairs, Phase

__all__ = [
    "Config",
    "Losses",
    "Pairs",
    "Phase",
    "RequestError",
    "RunError",
    "at_budget",
    "dataset_entry",
    "describe",
    "dump",
    "load",
    "pair_identity",
    "parse",
    "read",
    "settings",
    "share_epochs",
]

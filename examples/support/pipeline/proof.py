"""Whether a search of these very settings can be resumed to the bit."""

from __future__ import annotations

import dataclasses
import functools

import torch

import mlopt

from ..data import load_data, search_loaders
from ..search import Scheme
from ..settings import Settings, check_device

#: Steps in all, and after how many of them the state is saved.
STEPS, AT = 4, 2
#: What an option says that asks for this.
VERIFY = "take a few steps in one go, and resumed in a new process: compare every bit"


def verify(scheme: Scheme, s: Settings) -> mlopt.Resumption:
    """Take some steps of a search in one go, and saved and resumed in a new process.

    All levels are updated from the first step on, whatever epochs they wait for in the search.

    Args:
        scheme: makes the search.
        s: its settings.

    Returns:
        What was found.

    Raises:
        MloptError: the settings or the data cannot be used.
    """
    check_device(s.device)
    s = dataclasses.replace(s, generator_epochs=0, pretrain=0, warmup=0)
    return mlopt.verify_resume(functools.partial(first_engine, scheme.of(s), s), STEPS, AT)


def first_engine(scheme: Scheme, s: Settings) -> mlopt.Engine:
    """The engine of a search's first stage, as the program makes it."""
    if s.threads:
        torch.set_num_threads(s.threads)
    data = load_data(s)
    loaders = search_loaders(data, s, plain=scheme.plain, unlabeled=scheme.unlabeled)
    torch.manual_seed(s.seed)
    search = scheme(data, *loaders, s)
    for network in (*(x.architecture for x in search.learners), *search.networks):
        network.to(s.device)
    return search.engine

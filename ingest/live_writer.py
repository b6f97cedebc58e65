"""Whether a writer of a dataset is alive: who means to claim it asks, so that no service is fenced by accident."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request

from headrace.schemas.errors import ConfigError
from headrace.shards.state import State

_ANSWER_S = 3.0


def answers(api: str, dataset: str) -> bool:
    """Whether a service of this dataset answers at this address; another one may have got its port meanwhile."""
    try:
        with urllib.request.urlopen(f"{api}/api/v1/status", timeout=_ANSWER_S) as reply:
            told = json.load(reply).get("dataset")
    except (urllib.error.HTTPError, http.client.HTTPException):
        return True  # it wants a token, or is in trouble: somebody is there
    except (OSError, ValueError):
        return False
    return told is not None and _place(told) == _place(dataset)


def refuse_live_writer(state: State, dataset: str, take_over: bool) -> None:
    """Before a command claims a dataset. Raises: ConfigError where a writer is, or may be, live.

    A service that has told its address is asked; one that does not answer is dead. A writer without an address (a
    build, a service without a page) cannot be asked.
    """
    if take_over or not state.maybe_live:
        return
    if state.api is None:
        raise ConfigError("another writer may be live on this dataset: stop it first, or give --take-over to fence it")
    if answers(state.api, dataset):
        raise ConfigError(f"a service runs on this dataset at {state.api}: stop it first, or fence it (--take-over)")


def _place(dataset: str) -> str:
    return dataset.rstrip("/") if "://" in dataset else os.path.realpath(dataset)

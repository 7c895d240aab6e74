"""Datasets on the Hugging Face Hub."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ddpm.data.records import Records
from ddpm.data.request import DataRequest
from ddpm.data.sources.tables import load_tables, silenced, suggest_source

SECONDS_TO_ANSWER = 10      # in which the Hub has to answer
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")     # each forbids to ask the Hub


def load_hub(request: DataRequest) -> Records:
    """Return one split of a dataset on the Hub, or of its copy in the cache of `datasets` if the Hub does not answer.

    Raises:
        ValueError: if there is no such dataset, or it is neither reachable nor in the cache; and as in `load_tables`.
    """
    import datasets

    forbidden = datasets.config.HF_HUB_OFFLINE
    answers = not forbidden and _is_on_hub(request.source)
    try:
        with nullcontext() if answers else _offline():
            return load_tables(request)
    except ConnectionError as problem:
        why, remedy = "the Hub does not answer", "connect to the internet to download it"
        if forbidden:
            names = [name for name in OFFLINE_VARIABLES if os.environ.get(name)] or OFFLINE_VARIABLES[:1]
            why, remedy = f"{' and '.join(names)} forbids to ask the Hub", f"`unset {' '.join(names)}` to download it"
        raise ValueError(
            f"data.source: {request.source!r} is neither a local path nor a dataset of the Hub that was downloaded "
            f"before, and {why}; {remedy}, or give a local path{suggest_source(request.source)}"
        ) from problem


def _is_on_hub(name: str) -> bool:
    """Ask the Hub once; return False if it cannot be reached. `datasets` would retry for about 30 seconds.

    Raises:
        ValueError: if there is no such dataset.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wrong = f"data.source: {name!r} is neither a local path nor a dataset on the Hub"
    try:
        HfApi().dataset_info(name, timeout=SECONDS_TO_ANSWER)
    except HFValidationError:
        raise ValueError(f"{wrong}, whose names are OWNER/NAME{suggest_source(name)}") from None
    except HfHubHTTPError as problem:
        status = problem.response.status_code
        if status in (401, 403, 404):       # 401 is the answer to an unknown name as well
            remedy = "; check the name, or log in with `hf auth login` if it is private"
            raise ValueError(f"{wrong} that is visible to you{remedy}{suggest_source(name)}") from None
        return False
    except Exception:       # errors of the HTTP client, whose library and types differ between versions
        return False
    return True


@contextmanager
def _offline() -> Iterator[None]:
    """Make `datasets` read only its cache, without log lines about the Hub."""
    import datasets
    import huggingface_hub.constants

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        with silenced("huggingface_hub"):
            yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value

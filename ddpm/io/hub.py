"""Sharing an exported pipeline on the Hugging Face hub."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ddpm.atomic import MANIFEST
from ddpm.io.card import GRID, write_card
from ddpm.io.pipelines import load_pipeline, locate


def push(model: Path, name: str, licence: str | None = None, private: bool = False, dry_run: bool = False) -> None:
    """Uploads a model with its code and a card; without a token, or on request, only says what would be uploaded.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline.
        name: of the repository, `owner/name`; made if it does not exist.
        licence: of the weights, an identifier as the hub knows them.
        private: whether a repository that is made is private.
        dry_run: only say it.

    Raises:
        ValueError: for a name that cannot be, a model that cannot be loaded, or a refusal by the hub.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"{name}: is no name of a repository; give owner/name") from None
    if "/" not in name:
        raise ValueError(f"{name}: names no owner; give owner/{name}")
    if licence is not None and not re.fullmatch(r"[a-z0-9.-]+", licence):
        raise ValueError(f"license: {licence!r} is no identifier of the hub; give one as apache-2.0, mit or other")
    directory = locate(model)
    places = (model, directory, *directory.absolute().parents[:2])
    run = next((place for place in places if (place / "run.json").is_file()), None)
    card = directory / "README.md"
    keeps_card = run is None and card.is_file()         # of a pipeline that left its run behind
    if keeps_card and licence is not None:
        raise ValueError(f"license: {card} states it already; change it there")
    token = get_token()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pipeline"
        load_pipeline(directory).save_pretrained(folder)
        if keeps_card:
            for file in (card, card.with_name(GRID)):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
        else:
            write_card(folder, run or model, name, licence, _step(directory))
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        for file in files:
            print(f"{file.stat().st_size / 1e6:10.3f} MB  {file.relative_to(folder)}")
        if dry_run or token is None:
            reason = "" if dry_run else "no token was found: log in with `hf auth login`, or set HF_TOKEN; "
            print(f"{reason}nothing was uploaded; {len(files)} files would go to {name}")
            return
        api = HfApi(token=token)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            address = api.upload_folder(repo_id=name, folder_path=folder, commit_message="The model and its card")
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as problem:
            raise ValueError(f"{name}: the hub refused: {' '.join(str(problem).split())[:300]}") from problem
        print(f"uploaded to {address}")


def _step(directory: Path) -> int | None:
    """Of training that the weights are from, where the directory tells: a run's best model or a checkpoint."""
    best, checkpoint = directory / "best.json", re.fullmatch(r"step_(\d+)", directory.name)
    if best.is_file():
        return json.loads(best.read_text())["step"]
    return int(checkpoint[1]) if checkpoint else None

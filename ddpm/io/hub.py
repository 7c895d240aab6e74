"""Uploading an exported pipeline to the Hugging Face Hub."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ddpm.atomic import CHECKPOINT_NAME, MANIFEST
from ddpm.io.card import CARD, GRID, ModelCard
from ddpm.io.pipelines import load_pipeline, locate


def push(model: Path, name: str, license: str | None = None, private: bool = False, dry_run: bool = False) -> None:
    """Upload a model with its code and a card; without a token, or on request, only list the files.

    Args:
        model: a run directory, one of its checkpoints, or a pipeline.
        name: of the repository, `owner/name`; created if it does not exist.
        license: of the weights, an identifier of the Hub.
        private: whether a newly created repository is private.
        dry_run: only list the files.

    Raises:
        ValueError: for an invalid name, a model that cannot be loaded, or an error of the Hub.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"{name}: is not a valid repository name; use owner/name") from None
    if "/" not in name:
        raise ValueError(f"{name}: has no owner; use owner/{name}")
    if license is not None and not re.fullmatch(r"[a-z0-9.-]+", license):
        raise ValueError(f"license: {license!r} is not an identifier of the Hub; use apache-2.0, mit, other, ...")
    directory = locate(model)
    folders = (model, directory, *directory.absolute().parents[:2])
    run = next((folder for folder in folders if (folder / "run.json").is_file()), None)
    card = directory / CARD
    keeps_card = run is None and card.is_file()         # for a pipeline outside its run directory
    if keeps_card and license is not None:
        raise ValueError(f"license: {card} already states a license; change it there")
    token = get_token()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pipeline"
        load_pipeline(directory).save_pretrained(folder)
        if keeps_card:
            for file in (card, card.with_name(GRID)):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
        else:
            title = name.partition("/")[2]
            ModelCard(folder, run or model, name, license, _step(directory), title).write()
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        for file in files:
            print(f"{file.stat().st_size / 1e6:10.3f} MB  {file.relative_to(folder)}")
        if dry_run or token is None:
            reason = "" if dry_run else "no token found: log in with `hf auth login`, or set HF_TOKEN; "
            print(f"{reason}nothing was uploaded; {len(files)} files would go to {name}")
            return
        api = HfApi(token=token)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            address = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload model and card")
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as problem:
            raise ValueError(f"{name}: the Hub returned an error: {' '.join(str(problem).split())[:300]}") from problem
        print(f"uploaded to {address}")


def _step(directory: Path) -> int | None:
    """Return the training step of the weights if the directory shows it: a run's best model or a checkpoint."""
    best, checkpoint = directory / "best.json", CHECKPOINT_NAME.fullmatch(directory.name)
    if best.is_file():
        return json.loads(best.read_text())["step"]
    return int(checkpoint[1]) if checkpoint else None

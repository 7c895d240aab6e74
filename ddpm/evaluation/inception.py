"""Inception v3 as FID uses it, through torch-fidelity."""

from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from ddpm.evaluation.extraction import checked, digest_of, in_batches

BATCH = 32      # images of 299x299 at once


class Inception:
    """TensorFlow's Inception v3 of 2015: 2048 pooled features and 1008 logits without bias, as FID and IS use them.

    Needs the extra `metrics`. torch-fidelity imports torchvision, which must match torch: over a CPU build of torch,
    install torchvision from the same index (https://download.pytorch.org/whl/cpu). Images of any size are brought to
    299x299 as TensorFlow 1 does it; grey ones are repeated as red, green and blue.

    Source: Heusel et al. 2017, arXiv 1706.08500; Obukhov et al. 2020, torch-fidelity 0.4.0.

    Attributes:
        name: "inception".
        digest: SHA-256 of the weights and of what is done to images.
        classes: 1008.
    """

    name = "inception"
    classes = 1008

    def __init__(self, device: torch.device | str) -> None:
        """Loads the weights, downloading them where they are not there yet (96 MB).

        Raises:
            ValueError: if torch-fidelity or the weights cannot be had; says what to do.
        """
        module = _torch_fidelity()
        weights = weights_file(module.URL_INCEPTION_V3)
        try:
            torch.load(weights, map_location="cpu", weights_only=True)      # torch-fidelity would run what is pickled
        except Exception as problem:
            raise ValueError(
                f"extractor: {weights} does not hold Inception's weights ({type(problem).__name__}); delete it and try "
                "again"
            ) from problem
        network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )
        self.network = network.to(device)
        self.device = torch.device(device)
        self.digest = digest_of("inception 1; torch-fidelity 0.4.0; 2048, logits_unbiased", network.state_dict())

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1 or 3, H, W) -> features (N, 2048), logits (N, 1008)."""
        images = checked(images).expand(-1, 3, -1, -1)
        return in_batches(images, self.device, self.network, BATCH)


def _torch_fidelity():
    """The module that holds the network."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as module
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] != "torch_fidelity":
            raise _unusable(problem) from problem
        missing = "extractor: inception needs torch-fidelity; run pip install 'adagn-ddpm[metrics]'"
        raise ValueError(missing) from problem
    except (ImportError, RuntimeError) as problem:      # a torchvision of another torch fails in either way
        raise _unusable(problem) from problem
    return module


def _unusable(problem: Exception) -> ValueError:
    reason = str(problem).partition("\n")[0]
    return ValueError(
        f"extractor: torch-fidelity cannot be imported ({reason}); it needs the torchvision that belongs to torch "
        f"{torch.__version__}, from the index that torch came from"
    )


def weights_file(url: str) -> Path:
    """Where the weights are, after a download if need be.

    Raises:
        ValueError: if they are not there and cannot be downloaded; says from where, and where to put them.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as problem:      # URLError is an OSError; a wrong hash is a RuntimeError
            reason = str(problem).partition("\n")[0]
            raise ValueError(
                f"extractor: the weights of Inception cannot be downloaded ({reason}); fetch {url} where there is a "
                f"network, and put it at {file}"
            ) from problem
    return file

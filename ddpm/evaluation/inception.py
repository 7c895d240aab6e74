"""Inception v3 in the version that FID uses, through torch-fidelity."""

from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import torch
from torch import Tensor

from ddpm.evaluation.extraction import check_images, extract_in_batches, extractor_digest

BATCH = 32      # images of 299x299 per forward pass


class Inception:
    """TensorFlow's Inception v3 of 2015: 2048 pooled features and 1008 logits without bias, as for FID and IS.

    Needs the extra `metrics`. torch-fidelity imports torchvision, which must match torch: for a CPU build of torch,
    install torchvision from the same index (https://download.pytorch.org/whl/cpu). Images are resized to 299x299 as in
    TensorFlow 1, and grey images are repeated in all three channels.

    Source: Heusel et al. 2017, arXiv 1706.08500; Obukhov et al. 2020, torch-fidelity 0.4.0.

    Attributes:
        name: "inception".
        digest: SHA-256 of the weights and the preprocessing.
        classes: 1008.
    """

    name = "inception"
    classes = 1008

    def __init__(self, device: torch.device | str) -> None:
        """Load the weights; they are downloaded on first use (96 MB).

        Raises:
            ValueError: if torch-fidelity or the weights are not available; says what to do.
        """
        module = _torch_fidelity()
        weights = weights_file(module.URL_INCEPTION_V3)
        try:
            # torch-fidelity would unpickle the file without this check, which can run code.
            torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as problem:
            raise ValueError(
                f"extractor: {weights} does not contain Inception's weights ({type(problem).__name__}); delete it and "
                "try again"
            ) from problem
        network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )
        self.network = network.to(device)
        self.device = torch.device(device)
        self.digest = extractor_digest("inception 1; torch-fidelity 0.4.0; 2048, logits_unbiased", network.state_dict())

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 2048) and logits (N, 1008) of uint8 images (N, 1 or 3, H, W)."""
        images = check_images(images).expand(-1, 3, -1, -1)
        return extract_in_batches(images, self.device, self.network, BATCH)


def _torch_fidelity() -> ModuleType:
    """Import the module that defines the network."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except (ImportError, RuntimeError) as problem:      # a torchvision built for another torch raises either
        if isinstance(problem, ModuleNotFoundError) and (problem.name or "").partition(".")[0] == "torch_fidelity":
            missing = "extractor: inception needs torch-fidelity; run pip install 'adagn-ddpm[metrics]'"
            raise ValueError(missing) from problem
        reason = str(problem).partition("\n")[0]
        raise ValueError(
            f"extractor: torch-fidelity cannot be imported ({reason}); install the torchvision that matches torch "
            f"{torch.__version__}, from the index that torch was installed from"
        ) from problem
    return feature_extractor_inceptionv3


def weights_file(url: str) -> Path:
    """Return the path of the weights, after downloading them if necessary.

    Raises:
        ValueError: if they cannot be downloaded; names the source and the target path.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as problem:      # URLError is an OSError; a wrong hash is a RuntimeError
            reason = str(problem).partition("\n")[0]
            raise ValueError(
                f"extractor: the weights of Inception cannot be downloaded ({reason}); download {url} on a machine "
                f"with network access and copy it to {file}"
            ) from problem
    return file

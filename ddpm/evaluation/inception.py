"""Inception v3 in the version that FID uses, through torch-fidelity."""

from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import torch
from torch import Tensor

from ddpm.evaluation.extraction import extract_in_batches, extractor_digest, one_line

INCEPTION_BATCH_SIZE = 32


class Inception:
    """TensorFlow's Inception v3 of 2015: 2048 pooled features and 1008 logits without bias, as for FID and IS.

    Needs the extra `metrics`. torch-fidelity imports torchvision, which must match torch: for a CPU build of torch,
    install torchvision from the same index (https://download.pytorch.org/whl/cpu). Images are resized to 299x299 as in
    TensorFlow 1, and gray images are repeated in all three channels.

    Source: Heusel et al. 2017, arXiv 1706.08500; Obukhov et al. 2020, torch-fidelity 0.4.0.

    Attributes:
        name: "inception".
        digest: SHA-256 of the weights and the preprocessing.
    """

    name = "inception"

    def __init__(self, device: torch.device | str) -> None:
        """Load the weights; they are downloaded on first use (96 MB).

        Raises:
            ValueError: if torch-fidelity or the weights are not available; says what to do.
        """
        module = import_torch_fidelity()
        url = module.URL_INCEPTION_V3
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        try:
            # torch-fidelity would unpickle the file without `weights_only`, which can run code.
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except Exception as problem:    # no network, a wrong hash, a damaged file: each raises errors of its own
            raise ValueError(
                f"extractor: the weights of Inception cannot be loaded ({one_line(problem)}); download {url} and copy "
                f"it to {file}"
            ) from problem
        network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
        )
        self.network = network.to(device)
        self.device = torch.device(device)
        self.digest = extractor_digest("inception 1; torch-fidelity 0.4.0; 2048, logits_unbiased", network.state_dict())

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features (N, 2048) and logits (N, 1008) of uint8 images (N, 1 or 3, H, W)."""
        return extract_in_batches(images.expand(-1, 3, -1, -1), self.device, self.network, INCEPTION_BATCH_SIZE)


def import_torch_fidelity() -> ModuleType:
    """Import the module that defines the network.

    Raises:
        ValueError: if it cannot be imported; says how to install it.
    """
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except (ImportError, RuntimeError) as problem:      # a torchvision built for another torch raises either
        raise ValueError(
            f"extractor: inception cannot import torch-fidelity ({one_line(problem)}); run pip install "
            f"'adagn-ddpm[metrics]', with the torchvision for torch {torch.__version__} from the same index"
        ) from problem
    return feature_extractor_inceptionv3

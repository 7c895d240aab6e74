"""DINOv2 as a feature extractor, through transformers."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.evaluation.extraction import extract_in_batches, extractor_digest, one_line

DEFAULT_DINOV2 = "facebook/dinov2-base"
DINOV2_SIZE = 224
DINOV2_BATCH_SIZE = 32
MEAN = (0.485, 0.456, 0.406)        # of ImageNet's channels
DEVIATION = (0.229, 0.224, 0.225)


class DinoV2:
    """A self-supervised vision transformer; it agrees with human judgment of images better than Inception.

    Needs the extra `dinov2`. Images are resized to 224x224 (bicubic, antialiased), and gray images are repeated in all
    three channels. The features are the class token after the last norm, 768 for ViT-B/14. There are no logits.

    Source: Oquab et al. 2023, arXiv 2304.07193; as a metric, Stein et al. 2023, arXiv 2306.04675. Published FD-DINOv2
    values use ViT-L/14: `dinov2:facebook/dinov2-large`.

    Attributes:
        name: "dinov2".
        digest: SHA-256 of the weights and the preprocessing.
    """

    name = "dinov2"

    def __init__(self, device: torch.device | str, model: str = DEFAULT_DINOV2) -> None:
        """Load the weights; they are downloaded on first use (346 MB).

        Args:
            device: where to compute.
            model: a folder with config.json and model.safetensors, or a name on the Hugging Face Hub.

        Raises:
            ValueError: if transformers is not installed or the weights are not available; says what to do.
        """
        architecture = import_transformers().Dinov2Model
        try:
            network, report = architecture.from_pretrained(model, use_safetensors=True, output_loading_info=True)
        except OSError as problem:
            raise ValueError(
                f"extractor: dinov2 cannot load {model} ({one_line(problem)}); download config.json and "
                f"model.safetensors from https://huggingface.co/{model} on a machine with network access and pass "
                "their folder, --extractor dinov2:FOLDER"
            ) from problem
        if report["missing_keys"]:
            raise ValueError(f"extractor: {model} is not a DINOv2: {len(report['missing_keys'])} tensors are missing")
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        recipe = f"dinov2 1; {DINOV2_SIZE} bicubic antialiased; {MEAN} {DEVIATION}; class token"
        self.digest = extractor_digest(recipe, network.state_dict())

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features (N, D) of uint8 images (N, 1 or 3, H, W), and no logits."""
        return extract_in_batches(images.expand(-1, 3, -1, -1), self.device, self._class_tokens, DINOV2_BATCH_SIZE)

    def _class_tokens(self, images: Tensor) -> tuple[Tensor, None]:
        size = DINOV2_SIZE, DINOV2_SIZE
        resized = F.interpolate(images.float() / 255, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (resized.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        tokens = self.network(pixel_values=(resized - mean) / deviation).last_hidden_state              # (B, L, D)
        return tokens[:, 0], None


def import_transformers() -> ModuleType:
    """Import the library that defines the network.

    Raises:
        ValueError: if it is not installed; says how to install it.
    """
    try:
        import transformers
    except ImportError as problem:
        raise ValueError("extractor: dinov2 needs transformers; run pip install 'adagn-ddpm[dinov2]'") from problem
    return transformers

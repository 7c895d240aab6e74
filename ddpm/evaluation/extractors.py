"""Feature extractors by name. A new one is a class and an entry in EXTRACTORS."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddpm.atomic import sha256
from ddpm.data import ImageData
from ddpm.evaluation.dinov2 import DinoV2
from ddpm.evaluation.extraction import extractor_digest, one_line, without_classes
from ddpm.evaluation.inception import Inception
from ddpm.evaluation.reference_classifier import cached_classifier, load_saved_classifier
from ddpm.names import did_you_mean


class Extractor(Protocol):
    """Computes features of each image, independently of the other images.

    Attributes:
        name: its name in reports.
        digest: hexadecimal; identifies the weights and the preprocessing. Equal digests mean equal features.
    """

    name: str
    digest: str

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of images.

        Args:
            images: uint8 (N, C, H, W), in the size and with the channels of the data; any N.

        Returns:
            float32 features (N, D), and logits (N, K) or None, on the CPU.

        Raises:
            ValueError: if it cannot process such images.
        """


class NoExtractor:
    """Takes the place of an extractor if nothing is measured that needs features."""

    name, digest = "none", "none"

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fail, because it is not called."""
        raise AssertionError("features of images are extracted, and no metric needs them")


class CustomExtractor:
    """An extractor defined by the user, whose output is validated.

    It gets uint8 images on the CPU. An nn.Module is set to evaluation mode.

    Attributes:
        name: its import path.
        digest: its own, or the SHA-256 of its module's source file and of its output for a fixed input.
    """

    def __init__(self, path: str, extractor: Any, digest: str) -> None:
        """Wrap the object that the class or function at an import path returned."""
        self.name = path
        self.digest = digest
        self._extract: Callable[[Tensor], Any] = extractor.extract
        if isinstance(extractor, nn.Module):
            extractor.eval()

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return its output; raise `ValueError` if that is not what `Extractor.extract` returns."""
        with torch.inference_mode():
            output = self._extract(images)
        if not isinstance(output, tuple) or len(output) != 2:
            raise ValueError(
                f"extractor: {self.name}.extract returned {type(output).__name__}; allowed is a pair of features "
                "(N, D) and logits (N, K) or None"
            )
        features, logits = output
        features = self._validate(features, "features", len(images))
        return features, None if logits is None else self._validate(logits, "logits", len(images))

    def _validate(self, values: Any, kind: str, count: int) -> Tensor:
        if not isinstance(values, Tensor):
            problem = f"of type {type(values).__name__}"
        elif not values.is_floating_point():
            problem = f"of dtype {values.dtype}"
        elif values.ndim != 2 or len(values) != count:
            problem = f"of shape {tuple(values.shape)}"
        elif not values.isfinite().all():
            problem = "with values that are not finite"
        else:
            return values.float().cpu()
        raise ValueError(
            f"extractor: {self.name}.extract returned {kind} {problem}; allowed is a finite float tensor with one "
            f"row for each of the {count} images"
        )


def custom_extractor(path: str, data: ImageData) -> CustomExtractor:
    """Build the extractor that a class or function defined by the user returns.

    Args:
        path: `package.module:Name`; modules in the current directory are found. The object of this name is called
            without arguments and must return an object with a method `extract` as in `Extractor`.
        data: images of the size that it will get.

    Raises:
        ValueError: if there is no such object, or it does not return an extractor.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        make = pkgutil.resolve_name(path)
        inspect.signature(make).bind()
    except (ImportError, AttributeError, TypeError, ValueError) as problem:
        raise ValueError(
            f"extractor: {path} cannot be used ({one_line(problem)}); allowed is package.module:Name, a class or "
            f"function without required parameters, in an installed package or in {here}"
        ) from problem
    extractor = make()
    if not callable(getattr(extractor, "extract", None)):
        raise ValueError(f"extractor: {path} returns {type(extractor).__name__}, which has no method extract(images)")
    custom = CustomExtractor(path, extractor, str(getattr(extractor, "digest", "")))
    if not custom.digest:
        # The weights may be anywhere, so they are identified by the output for a fixed input.
        probe = torch.arange(4 * data.channels * data.resolution**2) * 97 % 256
        output = custom.extract(probe.to(torch.uint8).view(4, data.channels, data.resolution, data.resolution))
        rounded = {str(i): values.half() for i, values in enumerate(output) if values is not None}
        source = inspect.getfile(sys.modules[path.partition(":")[0]])
        custom.digest = extractor_digest(f"{path}; {sha256(Path(source))}", rounded)
    return custom


def build_extractor(name: str, data: ImageData, device: torch.device | str, cache: Path) -> Extractor:
    """Build the extractor that an option names.

    Args:
        name: an entry of EXTRACTORS; `dinov2:MODEL`, with a folder or a name on the Hugging Face Hub; the folder of a
            saved reference classifier; or `package.module:Name`, as for `custom_extractor`.
        data: the real images.
        device: where to compute.
        cache: folder of cached classifiers.

    Raises:
        ValueError: if there is no such extractor, or it is not available here or not for images with these channels.
    """
    device = torch.device(device)
    if name in EXTRACTORS:
        return EXTRACTORS[name](data, device, cache)
    if Path(name).is_dir():
        classifier = load_saved_classifier(Path(name), device)
        if (classifier.channels, classifier.resolution) != (data.channels, data.resolution):
            size, own = (f"{x.resolution}x{x.resolution} with {x.channels} channel(s)" for x in (data, classifier))
            raise ValueError(f"extractor: the data is {size}, the classifier in {name} needs {own}; use `classifier`")
        return classifier
    kind, colon, rest = name.partition(":")
    if kind == DinoV2.name and rest:
        check_color(DinoV2.name, data)
        return DinoV2(device, rest)
    if colon:
        return custom_extractor(name, data)
    raise ValueError(
        f"extractor: {name!r} is not available; allowed: {', '.join(EXTRACTORS)}, the folder of a saved reference "
        f"classifier, or your own package.module:Name{did_you_mean(name, EXTRACTORS)}"
    )


def check_color(name: str, data: ImageData) -> None:
    """Check that images are gray or RGB, as an extractor that was trained on photographs needs.

    Raises:
        ValueError: if they have other channels; names extractors for them.
    """
    if data.channels not in (1, 3):
        others = ["classifier"] * (data.num_classes > 1) + [*without_classes(data.channels)]
        raise ValueError(
            f"extractor: {name} takes images with 1 (gray) or 3 (RGB) channels, and these have {data.channels}; use "
            f"{' or '.join(others)}"
        )


def _build_inception(data: ImageData, device: torch.device, cache: Path) -> Inception:
    check_color(Inception.name, data)
    return Inception(device)


def _build_dinov2(data: ImageData, device: torch.device, cache: Path) -> DinoV2:
    check_color(DinoV2.name, data)
    return DinoV2(device)


EXTRACTORS: dict[str, Callable[[ImageData, torch.device, Path], Extractor]] = {
    "classifier": cached_classifier,
    "inception": _build_inception,
    "dinov2": _build_dinov2,
}

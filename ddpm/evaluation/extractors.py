"""Feature extractors by name. A new one is a class and an entry in EXTRACTORS."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddpm.atomic import sha256
from ddpm.data import ImageData
from ddpm.evaluation.dinov2 import DinoV2
from ddpm.evaluation.extraction import check_images, extractor_digest
from ddpm.evaluation.inception import Inception
from ddpm.evaluation.reference_classifier import cached_classifier, load_classifier
from ddpm.names import did_you_mean


class Extractor(Protocol):
    """Computes features of each image, independently of the other images.

    Attributes:
        name: its name in reports.
        digest: hexadecimal; identifies the weights and the preprocessing. Equal digests mean equal features.
        classes: number of logits K; None without logits.
    """

    name: str
    digest: str
    classes: int | None

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features and logits of images.

        Args:
            images: uint8 (N, C, H, W) with 1 or 3 channels; any N.

        Returns:
            float32 features (N, D), and logits (N, K) or None, on the CPU.

        Raises:
            ValueError: if it cannot process such images.
        """


class CustomExtractor:
    """An extractor defined by the user, whose output is validated.

    It gets uint8 images on the CPU. An nn.Module is set to evaluation mode.

    Attributes:
        name: its import path.
        digest: its own, or the SHA-256 of its module's source file and of its output for a fixed input.
        classes: its own, or None.
    """

    def __init__(self, path: str, extractor: Any, digest: str) -> None:
        """Wrap the object that the class or function at an import path returned."""
        self.name = path
        self.digest = digest
        self.classes: int | None = getattr(extractor, "classes", None)
        self._extractor = extractor.eval() if isinstance(extractor, nn.Module) else extractor

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return its output; raise `ValueError` if that is not what `Extractor.extract` returns."""
        check_images(images)
        with torch.inference_mode():
            answer = self._extractor.extract(images)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(
                f"extractor: {self.name}.extract returned {type(answer).__name__}; allowed is a pair of features "
                "(N, D) and logits (N, K) or None"
            )
        features, logits = answer
        features = self._validate(features, "features", "D", len(images), None)
        return features, None if logits is None else self._validate(logits, "logits", "K", len(images), self.classes)

    def _validate(self, values: Any, what: str, letter: str, count: int, width: int | None) -> Tensor:
        allowed = f"allowed is a float tensor ({count}, {width or letter}), one row per image"
        returned = f"extractor: {self.name}.extract returned {what}"
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = f"dtype {values.dtype}" if isinstance(values, Tensor) else f"type {type(values).__name__}"
            raise ValueError(f"{returned} of {kind}; {allowed}")
        if values.ndim != 2 or len(values) != count or width not in (None, values.shape[1]):
            raise ValueError(f"{returned} of shape {tuple(values.shape)}; {allowed}")
        bad = (~values.isfinite()).any(dim=1)
        if bad.any():
            raise ValueError(f"{returned} that are not finite, first for image {int(bad.nonzero()[0])}; {allowed}")
        return values.float().cpu()


def custom_extractor(path: str, data: ImageData) -> CustomExtractor:
    """Build the extractor that a class or function defined by the user returns.

    Args:
        path: `package.module:Name`; modules in the current directory are found. The object of this name is called
            without arguments and must return an object with a method `extract` as in `Extractor`.
        data: images of the size that it will get.

    Raises:
        ValueError: if there is no such object, or it does not return an extractor.
    """
    module_name, _, name = path.partition(":")
    module = _import(module_name)
    if not hasattr(module, name):
        public = ", ".join(sorted(key for key, value in vars(module).items() if _is_defined_in(value, module)))
        raise ValueError(f"extractor: {module_name} has no {name!r}; its classes and functions: {public or 'none'}")
    make = getattr(module, name)
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"extractor: {path} cannot be called without arguments; allowed is a class or function without required "
            "parameters"
        ) from problem
    extractor = make()
    if not callable(getattr(extractor, "extract", None)):
        raise ValueError(f"extractor: {path} returns {type(extractor).__name__}, which has no method extract(images)")
    custom = CustomExtractor(path, extractor, str(getattr(extractor, "digest", "")))
    if not custom.digest:
        if not getattr(module, "__file__", None):
            raise ValueError(
                f"extractor: {path} was not loaded from a file; give it an attribute `digest` for its weights"
            )
        # The weights may be anywhere, so they are identified by the output for a fixed input.
        probe = torch.arange(4 * data.channels * data.resolution**2) * 97 % 256
        output = custom.extract(probe.to(torch.uint8).view(4, data.channels, data.resolution, data.resolution))
        rounded = {str(i): values.half() for i, values in enumerate(output) if values is not None}
        custom.digest = extractor_digest(f"{path}; {sha256(Path(module.__file__))}", rounded)
    return custom


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as problem:     # names such as "", "a..b" and ".a" raise all three
        missing = isinstance(problem, ModuleNotFoundError) and f"{name}.".startswith(f"{problem.name}.")
        reason = "there is no module of that name" if missing else str(problem).partition("\n")[0]
        raise ValueError(
            f"extractor: module {name!r} cannot be imported ({reason}); install it, or put it in {here}"
        ) from problem


def _is_defined_in(value: Any, module: ModuleType) -> bool:
    return inspect.isroutine(value) or (inspect.isclass(value) and value.__module__ == module.__name__)


def load_saved_classifier(directory: Path, data: ImageData, device: torch.device) -> Extractor:
    """Load a reference classifier from a folder.

    Raises:
        ValueError: if the folder does not contain one, it is damaged, or it requires images of another size.
    """
    if not (directory / "classifier.json").is_file():
        raise ValueError(
            f"extractor: {directory} is not a saved reference classifier; allowed is a folder with classifier.json and "
            "classifier.safetensors"
        )
    classifier = load_classifier(directory, device)
    if (classifier.channels, classifier.resolution) != (data.channels, data.resolution):
        raise ValueError(
            f"extractor: the classifier in {directory} requires {classifier.resolution}x{classifier.resolution} pixels and "
            f"{classifier.channels} channels, and the data has {data.resolution}x{data.resolution} and {data.channels}; "
            "use `classifier`"
        )
    return classifier


def build_extractor(name: str, data: ImageData, device: torch.device | str, cache: Path) -> Extractor:
    """Build the extractor that an option names.

    Args:
        name: an entry of EXTRACTORS; `dinov2:MODEL`, with a folder or a name on the Hugging Face Hub; the folder of a
            saved reference classifier; or `package.module:Name`, as for `custom_extractor`.
        data: the real images.
        device: where to compute.
        cache: folder of cached classifiers.

    Raises:
        ValueError: if there is no such extractor, or it is not available here.
    """
    device = torch.device(device)
    if name in EXTRACTORS:
        return EXTRACTORS[name](data, device, cache)
    if Path(name).is_dir():
        return load_saved_classifier(Path(name), data, device)
    kind, colon, rest = name.partition(":")
    if kind == DinoV2.name and rest:
        return DinoV2(device, rest)
    if colon:
        return custom_extractor(name, data)
    raise ValueError(
        f"extractor: {name!r} is not available; allowed: {', '.join(EXTRACTORS)}, the folder of a saved reference "
        f"classifier, or your own package.module:Name{did_you_mean(name, EXTRACTORS)}"
    )


EXTRACTORS: dict[str, Callable[[ImageData, torch.device, Path], Extractor]] = {
    "classifier": cached_classifier,
    "inception": lambda data, device, cache: Inception(device),
    "dinov2": lambda data, device, cache: DinoV2(device),
}

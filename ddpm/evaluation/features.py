"""Feature extractors: what describes images by numbers. A new one is a class and an entry in EXTRACTORS."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddpm.data import ImageData
from ddpm.evaluation.dinov2 import DinoV2
from ddpm.evaluation.extraction import checked, digest_of
from ddpm.evaluation.inception import Inception
from ddpm.evaluation.reference_classifier import cached_judge, load_judge
from ddpm.names import did_you_mean


class Extractor(Protocol):
    """Describes each image by numbers that do not depend on the other images.

    Attributes:
        name: what it is called in reports.
        digest: hex; stands for its weights and for what is done to images before. Equal digests, equal features.
        classes: number of logits K; None where it has none.
    """

    name: str
    digest: str
    classes: int | None

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features and logits of images.

        Args:
            images: uint8 (N, C, H, W) with 1 or 3 channels, as many as there are.

        Returns:
            float32 features (N, D), and logits (N, K) or None, on the CPU.

        Raises:
            ValueError: if it cannot take such images.
        """


class Own:
    """An extractor of the user's, whose answers are checked.

    It is given uint8 images on the CPU. Where it is an nn.Module it is set to evaluation.

    Attributes:
        name: its import path.
        digest: its own, or SHA-256 of its module's source file and of its state dict.
        classes: its own, or None.
    """

    def __init__(self, path: str, extractor: Any, digest: str) -> None:
        """Wraps what the class or function at an import path made."""
        self.name = path
        self.digest = digest
        self.classes: int | None = getattr(extractor, "classes", None)
        self._extractor = extractor.eval() if isinstance(extractor, nn.Module) else extractor

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What it answers; raises `ValueError` if that is not what an extractor answers."""
        checked(images)
        with torch.inference_mode():
            answer = self._extractor.extract(images)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(
                f"extractor: {self.name}.extract returned {type(answer).__name__}; allowed is a pair, of features "
                "(N, D) and logits (N, K) or None"
            )
        features, logits = answer
        features = self._table(features, "features", "D", len(images), None)
        return features, None if logits is None else self._table(logits, "logits", "K", len(images), self.classes)

    def _table(self, values: Any, what: str, letter: str, count: int, width: int | None) -> Tensor:
        allowed = f"allowed is a float tensor ({count}, {width or letter}), a row for each image"
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = f"dtype {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"extractor: {self.name}.extract returned {what} of {kind}; {allowed}")
        if values.ndim != 2 or len(values) != count or width not in (None, values.shape[1]):
            shape = tuple(values.shape)
            raise ValueError(f"extractor: {self.name}.extract returned {what} of shape {shape}; {allowed}")
        bad = (~values.isfinite()).any(dim=1)
        if bad.any():
            at = int(bad.nonzero()[0])
            raise ValueError(f"extractor: {self.name}.extract returned {what} that are not finite, first of image {at}")
        return values.float().cpu()


def own_extractor(path: str, data: ImageData) -> Own:
    """The extractor that a class or function of the user's makes.

    Args:
        path: `package.module:Name`; modules of the current directory are found. What has this name is called without
            arguments and must answer with an object that has `extract`, as `Extractor` says.
        data: images of the size that it will be shown.

    Raises:
        ValueError: if there is no such thing, or it is none.
    """
    module_name, _, name = path.partition(":")
    module = _module(module_name)
    if not hasattr(module, name):
        public = ", ".join(sorted(key for key, value in vars(module).items() if _is_of(value, module))) or "none"
        raise ValueError(f"extractor: {module_name} has no {name!r}; its classes and functions: {public}")
    make = getattr(module, name)
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"extractor: {path} cannot be called without arguments; allowed is a class or function that can"
        ) from problem
    extractor = make()
    if not callable(getattr(extractor, "extract", None)):
        raise ValueError(f"extractor: {path} makes {type(extractor).__name__}, which has no method extract(images)")
    own = Own(path, extractor, _digest(path, module, extractor))
    if getattr(extractor, "digest", None) is None:
        # Its weights may be where no state dict tells of them, so what it answers counts too.
        probe = torch.arange(4 * data.channels * data.resolution**2) * 97 % 256
        answers = own.extract(probe.to(torch.uint8).view(4, data.channels, data.resolution, data.resolution))[0]
        own.digest = digest_of(own.digest, {"answers": answers.half()})
    return own


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as problem:     # names such as "", "a..b" and ".a" give all three
        missing = isinstance(problem, ModuleNotFoundError) and f"{name}.".startswith(f"{problem.name}.")
        reason = "there is none of that name" if missing else str(problem).partition("\n")[0]
        raise ValueError(
            f"extractor: module {name!r} cannot be imported ({reason}); it must be installed or lie in {here}"
        ) from problem


def _is_of(value: Any, module: ModuleType) -> bool:
    return inspect.isroutine(value) or (inspect.isclass(value) and value.__module__ == module.__name__)


def _digest(path: str, module: ModuleType, extractor: Any) -> str:
    digest = getattr(extractor, "digest", None)
    if digest is not None:
        return str(digest)
    if not getattr(module, "__file__", None):
        raise ValueError(
            f"extractor: {path} comes from no file; give it an attribute `digest` that stands for its weights"
        )
    source = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    weights = extractor.state_dict() if callable(getattr(extractor, "state_dict", None)) else None
    return digest_of(f"{path}; {source}", weights)


def saved_judge(directory: Path, data: ImageData, device: torch.device) -> Extractor:
    """A judge that was carried here.

    Raises:
        ValueError: if there is none in the folder, it is damaged, or reads images of another size.
    """
    if not (directory / "judge.json").is_file():
        raise ValueError(
            f"extractor: {directory} holds no judge; one is a folder with judge.json and judge.safetensors"
        )
    judge = load_judge(directory, device)
    if (judge.channels, judge.resolution) != (data.channels, data.resolution):
        raise ValueError(
            f"extractor: the judge in {directory} reads {judge.resolution}x{judge.resolution} with {judge.channels} "
            f"channels, and the data is {data.resolution}x{data.resolution} with {data.channels}; use `judge`"
        )
    return judge


def build_extractor(name: str, data: ImageData, device: torch.device | str, cache: Path) -> Extractor:
    """The extractor that an option asks for.

    Args:
        name: an entry of EXTRACTORS; `dinov2:MODEL`, with a folder or a name on the Hugging Face Hub; the folder of a
            saved judge; or `package.module:Name`, as `own_extractor` takes it.
        data: the real images.
        device: where to compute.
        cache: folder of what is made once.

    Raises:
        ValueError: if there is no such extractor, or it cannot be had here.
    """
    device = torch.device(device)
    if name in EXTRACTORS:
        return EXTRACTORS[name](data, device, cache)
    if Path(name).is_dir():
        return saved_judge(Path(name), data, device)
    kind, colon, rest = name.partition(":")
    if kind == DinoV2.name and rest:
        return DinoV2(device, rest)
    if colon:
        return own_extractor(name, data)
    raise ValueError(
        f"extractor: {name!r} is not one of {', '.join(EXTRACTORS)}, the folder of a saved judge, or "
        f"package.module:Name of your own{did_you_mean(name, EXTRACTORS)}"
    )


EXTRACTORS: dict[str, Callable[[ImageData, torch.device, Path], Extractor]] = {
    "judge": cached_judge,
    "inception": lambda data, device, cache: Inception(device),
    "dinov2": lambda data, device, cache: DinoV2(device),
}

"""The reference classifier: a small network, trained once on the data set's own images, that also serves as extractor.

It needs no download and suits any kind of image, such as digits, tissue or galaxies. Distances in its feature space
depend on the data set that it was trained on: they compare models of one data set and are not FID values.
"""

import fcntl
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ddpm.atomic import find_damage, write_directory_atomically, write_json
from ddpm.data import ImageData
from ddpm.evaluation.classifier_network import NETWORK_RECIPE, WIDTHS, ClassifierNetwork, untrained_classifier
from ddpm.evaluation.estimates import Estimate, wilson_interval
from ddpm.evaluation.extraction import EXTRACTION_BATCH_SIZE, extract_in_batches, extractor_digest, without_classes
from ddpm.processes import acquire_lock
from ddpm.randomness import Purpose, generator, permutation

BATCH_SIZE = 64
EPOCHS = 20
STEPS = (400, 4_800)            # at least and at most
LEARNING_RATE = 2e-3
WARM_UP = 0.2                   # fraction of the steps
WEIGHT_DECAY = 0.05
SHIFT = 1 / 8                   # maximum in each direction, as a fraction of the side
HELD_OUT = 0.2                  # fraction of the images, up to MAX_HELD_OUT
MAX_HELD_OUT = 10_000
MEASURED = 4_096                # images for means and standard deviations
SEED = 0
VERSION = 1                     # increase when a code change affects the trained weights
CLASSIFIER_RECIPE = (
    f"classifier {VERSION}; {NETWORK_RECIPE}; {BATCH_SIZE} {EPOCHS} {STEPS} {LEARNING_RATE} "
    f"{WARM_UP} {WEIGHT_DECAY} {SHIFT}; {HELD_OUT} {MAX_HELD_OUT} {MEASURED}; seed {SEED}"
)


class ReferenceClassifier:
    """A trained classifier as an extractor. Its logits are log-odds of the data's classes.

    Attributes:
        name: "classifier".
        digest: SHA-256 of the weights and the preprocessing.
        class_names: K names, in the order of the logits.
        channels: of its input.
        resolution: height and width of its input in pixels; no other size is allowed.
        accuracy: fraction of the held-out images that it classifies correctly, with the Wilson interval.
        held_out: number of images that it was not trained on.
        held_out_indices: int64 (held_out,), sorted indices of these images in the data.
        fingerprint: of the data that it was trained on; it cannot classify other data.
    """

    name = "classifier"

    def __init__(
        self,
        network: ClassifierNetwork,
        class_names: tuple[str, ...],
        resolution: int,
        accuracy: Estimate,
        held_out_indices: Tensor,
        fingerprint: str,
    ) -> None:
        """Wrap a trained network; see the attributes of the class."""
        self.network = network.eval().requires_grad_(False)
        self.class_names = class_names
        self.channels = len(network.mean)
        self.resolution = resolution
        self.accuracy = accuracy
        self.held_out = len(held_out_indices)
        self.held_out_indices = held_out_indices
        self.fingerprint = fingerprint
        recipe = f"{CLASSIFIER_RECIPE}; {self.channels}x{resolution}x{resolution}"
        self.digest = extractor_digest(recipe, network.state_dict())

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and logits (N, K), float32 on the CPU, of uint8 images (N, C, H, H) of its size."""
        assert images.shape[1:] == (self.channels, self.resolution, self.resolution)
        features, logits = extract_in_batches(images, self.network.mean.device, self.network)
        assert logits is not None
        return features, logits

    def save(self, folder: Path) -> None:
        """Write classifier.safetensors and classifier.json into a folder."""
        weights = {f"network.{name}": values.cpu().contiguous() for name, values in self.network.state_dict().items()}
        save_file(weights | {"held_out_indices": self.held_out_indices}, folder / "classifier.safetensors")
        about = {
            "recipe": CLASSIFIER_RECIPE,
            "data": self.fingerprint,
            "class_names": list(self.class_names),
            "channels": self.channels,
            "resolution": self.resolution,
            "accuracy": self.accuracy._asdict(),
        }
        write_json(folder / "classifier.json", about)


def train_classifier(data: ImageData, device: torch.device | str) -> ReferenceClassifier:
    """Train a reference classifier on four fifths of the images, for a bounded number of steps.

    The weights depend only on the data, the device and the number of threads. Images are read batch by batch. The only
    augmentation is a small shift: mirrored digits, text or organs would be wrong.

    Args:
        data: images of any size, from two or more classes with two or more images each.
        device: where to train; the classifier stays there.

    Raises:
        ValueError: if there are too few classes or images; names the class.
    """
    check_trainable(data)
    device = torch.device(device)
    held_out = held_out_indices(data.labels)
    mine = torch.from_numpy(np.setdiff1d(np.arange(len(data)), held_out))              # (N,)
    network = _build_untrained(data, mine).to(device)

    steps = min(max(len(mine) * EPOCHS // BATCH_SIZE, STEPS[0]), STEPS[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    shifts = generator(SEED, Purpose.FLIP, 0)
    epochs = range(-(-steps * BATCH_SIZE // len(mine)))
    order = torch.cat([mine[permutation(SEED, epoch, len(mine))] for epoch in epochs])
    batches = order[: steps * BATCH_SIZE].split(BATCH_SIZE)
    progress = tqdm(batches, desc="reference classifier", unit="step", leave=False, delay=5, disable=None)
    for step, batch in enumerate(progress):
        images, labels = data.__getitems__(batch)
        done = (step + 1) / (steps + 1)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        logits = network(shift_randomly(images, shifts).to(device))[1]
        loss = F.cross_entropy(logits, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network.eval()
    _measure_spread(network, data, mine)
    logits = torch.cat([_run_network(network, data, batch)[1] for batch in held_out.split(EXTRACTION_BATCH_SIZE)])
    right = int((logits.argmax(dim=1).cpu() == data.labels[held_out]).sum())
    accuracy = wilson_interval(right, len(held_out), len(held_out))
    return ReferenceClassifier(network, data.class_names, data.resolution, accuracy, held_out, data.fingerprint)


def why_untrainable(data: ImageData) -> str | None:
    """Return why a classifier of the images cannot be trained and tested, in a few words; None if it can."""
    if data.num_classes == 0:
        return "the images have no classes"
    if data.num_classes == 1:
        return "the images have 1 class, and it needs 2 classes or more"
    counts = torch.bincount(data.labels, minlength=data.num_classes)
    rarest = int(counts.argmin())
    if counts[rarest] < 2:
        name, number = data.class_names[rarest], ("no image", "1 image")[counts[rarest]]
        return f"class {name!r} has {number}, and it needs 2 images or more of each (one to train and one to test)"
    return None


def check_trainable(data: ImageData) -> None:
    """Check that a classifier of the images can be trained and tested.

    Raises:
        ValueError: if it cannot; names extractors for these images.
    """
    if (reason := why_untrainable(data)) is not None:
        raise ValueError(
            f"extractor: classifier cannot be trained, because {reason}; use the extractor "
            f"{' or '.join(without_classes(data.channels))}"
        )


def held_out_indices(labels: Tensor) -> Tensor:
    """Choose the images that a classifier is not trained on.

    They are a fifth of each class, ± one image, and at most 10,000 in all. This is systematic sampling: images are
    numbered at random within their class, the position of each is (number + offset) / (size of the class) with a random
    offset in [0, 1) per class, and the images with the lowest positions are held out. So every class keeps at least one
    training image, and a class of fewer than five may have none held out.

    Args:
        labels: int64 (N,), two or more of each class.

    Returns:
        int64 (M,), sorted.
    """
    draws = generator(SEED, Purpose.ORDER, 0)
    order = torch.randperm(len(labels), generator=draws)
    order = order[labels[order].argsort(stable=True)]           # sorted by class, random within each
    sizes = torch.bincount(labels)
    number = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    offset = torch.rand(len(sizes), dtype=torch.float64, generator=draws)
    stand = (number + offset[labels[order]]) / sizes[labels[order]]
    count = max(1, min(int(len(labels) * HELD_OUT), MAX_HELD_OUT))
    return order[stand.argsort(stable=True)[:count]].sort().values


def _build_untrained(data: ImageData, indices: Tensor) -> ClassifierNetwork:
    """Build an untrained network with the mean and standard deviation of the channels."""
    draws = generator(SEED, Purpose.WEIGHTS, 0)
    network = untrained_classifier(data.channels, data.resolution, data.num_classes, draws)
    chosen = _select_evenly(indices)
    sums = torch.zeros(2, data.channels, dtype=torch.float64)
    for batch in chosen.split(EXTRACTION_BATCH_SIZE):
        pixels = data.__getitems__(batch)[0].double()
        sums += torch.stack([pixels.sum(dim=(0, 2, 3)), pixels.square().sum(dim=(0, 2, 3))])
    mean, square = sums / (len(chosen) * data.resolution**2)
    network.mean.copy_(mean[:, None, None])
    network.deviation.copy_((square - mean.square()).clamp(min=1).sqrt()[:, None, None])     # at least one gray level
    network.spread.fill_(1)
    return network


def _measure_spread(network: ClassifierNetwork, data: ImageData, indices: Tensor) -> None:
    """Set the scale of the features of a trained network, depth by depth."""
    batches = _select_evenly(indices).split(EXTRACTION_BATCH_SIZE)
    features = torch.cat([_run_network(network, data, batch)[0].cpu() for batch in batches]).double()
    variances = [part.var(dim=0).mean() for part in features.split(WIDTHS, dim=1)]
    network.spread.copy_(torch.stack(variances).sqrt().clamp(min=1e-6))


def _select_evenly(indices: Tensor) -> Tensor:
    """Return up to MEASURED of the indices, evenly spaced."""
    count = min(len(indices), MEASURED)
    return indices[torch.arange(count) * len(indices) // count]


@torch.inference_mode()
def _run_network(network: ClassifierNetwork, data: ImageData, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return features and logits of some of the images."""
    return network(data.__getitems__(indices)[0].to(network.mean.device))


def shift_randomly(images: Tensor, draws: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side, repeating its border: uint8 (B, C, H, H)."""
    size = images.shape[-1]
    maximum = max(1, round(size * SHIFT))
    by = torch.randint(-maximum, maximum + 1, (2, len(images), 1), generator=draws)
    rows, columns = (torch.arange(size) + by).clamp(0, size - 1)                        # (B, H) each
    batch = torch.arange(len(images))[:, None, None]
    return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def cached_classifier(data: ImageData, device: torch.device | str, cache: Path) -> ReferenceClassifier:
    """Load the reference classifier of a data set from `cache / "classifiers"`, or train it and save it there.

    If several processes call this at once, one trains and the others wait.

    Raises:
        ValueError: as in `train_classifier`.
        OSError: if it cannot be saved.
    """
    assert data.fingerprint, "without a fingerprint, data sets would share one classifier"
    directory = cache / "classifiers" / extractor_digest(f"{data.fingerprint}; {CLASSIFIER_RECIPE}")[:32]
    check_trainable(data)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        if not acquire_lock(lock, fcntl.LOCK_EX, patience=1):
            print(f"waiting for another command that trains the classifier {directory}", file=sys.stderr, flush=True)
            acquire_lock(lock, fcntl.LOCK_EX, patience=math.inf)
        problem = find_damage(directory) if directory.exists() else None
        if directory.exists() and problem is None:
            return load_saved_classifier(directory, device)
        if problem is not None:
            print(f"WARNING: the classifier in {directory} is damaged ({problem}); training it again", file=sys.stderr)
        print(f"training a reference classifier on {len(data):,} images, once", flush=True)
        classifier = train_classifier(data, device)
        write_directory_atomically(directory, classifier.save)
    return classifier


def load_saved_classifier(directory: Path, device: torch.device | str = "cpu") -> ReferenceClassifier:
    """Load a classifier that `cached_classifier` saved.

    Raises:
        ValueError: if it is damaged or was trained by an incompatible version of this package.
    """
    problem = find_damage(directory)
    if problem is not None:
        raise ValueError(
            f"extractor: {directory} is not an intact reference classifier ({problem}); allowed is a folder with "
            "classifier.json and classifier.safetensors; copy it again, or use `classifier`"
        )
    about = json.loads((directory / "classifier.json").read_text())
    if about["recipe"] != CLASSIFIER_RECIPE:
        raise ValueError(f"extractor: {directory} is from another version of this package; use `classifier`")
    with torch.device("meta"):
        network = ClassifierNetwork(about["channels"], about["resolution"], len(about["class_names"]))
    weights = load_file(directory / "classifier.safetensors")
    held_out = weights.pop("held_out_indices")
    network.load_state_dict({name.removeprefix("network."): v for name, v in weights.items()}, assign=True)
    accuracy, names = Estimate(**about["accuracy"]), tuple(about["class_names"])
    return ReferenceClassifier(network.to(device), names, about["resolution"], accuracy, held_out, about["data"])

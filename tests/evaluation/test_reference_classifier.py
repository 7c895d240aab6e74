"""The reference classifier: its accuracy, its distances, its training and its files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.data import ImageData, load_data
from ddpm.evaluation import reference_classifier as module
from ddpm.evaluation.reference_classifier import (
    ReferenceClassifier,
    cached_classifier,
    held_out_indices,
    load_saved_classifier,
    shift_randomly,
    train_classifier,
)


def noise_data(
    count: int = 40, channels: int = 1, size: int = 8, classes: int = 2, fingerprint: str = "a"
) -> ImageData:
    """Return images of noise whose brightness depends on the class."""
    draws = torch.Generator().manual_seed(count + size)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 60, (count, channels, size, size), generator=draws)
    pixels = (pixels + labels[:, None, None, None] * (190 // max(1, classes - 1))).to(torch.uint8)
    return ImageData(pixels, labels, tuple(f"c{k}" for k in range(classes)), fingerprint=fingerprint)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data()


@pytest.fixture(scope="module")
def classifier(digits: ImageData) -> ReferenceClassifier:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = train_classifier(digits, "cpu")
    torch.set_num_threads(threads)
    return trained


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", (3, 3))


# ---------------------------------------------------------------------------------------------- accuracy and distances


def test_accuracy_on_digits(classifier: ReferenceClassifier, digits: ImageData) -> None:
    images, labels = digits.__getitems__(classifier.held_out_indices)
    right = int((classifier.extract(images)[1].argmax(dim=1) == labels).sum())
    assert classifier.accuracy.value == right / classifier.held_out
    assert classifier.accuracy.count == classifier.held_out == 359
    # 0.98 is expected; a share of 359 has a standard error of 0.007.
    assert classifier.accuracy.value > 0.965


def test_the_interval_is_wilsons(classifier: ReferenceClassifier) -> None:
    """The ends are the fractions p whose distance from the observed fraction is 1.96 standard errors of p."""
    value, low, high, count = classifier.accuracy
    for end in (low, high):
        assert abs(value - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.959964, rel=1e-5)
    assert low < value < high


def frechet_distance(a: Tensor, b: Tensor) -> float:
    a, b = a.double().numpy(), b.double().numpy()
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(c_a @ c_b).real, 0, None)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c_a) + np.trace(c_b) - 2 * roots)


def blurred(images: Tensor, strength: float) -> Tensor:
    reach = torch.exp(-torch.arange(-3, 4.0).square() / (2 * strength**2))
    kernel = (reach[:, None] * reach / reach.sum() ** 2)[None, None]
    return F.conv2d(F.pad(images.float(), (3, 3, 3, 3), mode="replicate"), kernel).round().to(torch.uint8)


def noisy(images: Tensor, strength: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + strength * noise).round().clamp(0, 255).to(torch.uint8)


def flattened(images: Tensor, strength: float) -> Tensor:
    return ((images.float() - 128) * (1 - strength) + 128).round().to(torch.uint8)


WORSE = {
    "blur": (blurred, (0.5, 0.7, 1.0, 2.0)),
    "noise": (noisy, (5, 10, 20, 40)),
    "contrast": (flattened, (0.05, 0.1, 0.2, 0.5)),
    "brightness": (lambda images, by: (images.int() + by).clamp(max=255).to(torch.uint8), (3, 6, 12, 25)),
}


@pytest.mark.parametrize("name", WORSE)
def test_distances_grow_with_damage(classifier: ReferenceClassifier, digits: ImageData, name: str) -> None:
    spoil, strengths = WORSE[name]
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(1))
    reference, images = (digits.__getitems__(half)[0] for half in (order[:898], order[898:]))
    known = classifier.extract(reference)[0]
    distances = [frechet_distance(known, classifier.extract(spoil(images, s))[0]) for s in strengths]
    distances.insert(0, frechet_distance(known, classifier.extract(images)[0]))
    assert distances == sorted(distances) and distances[-1] > 3 * distances[0], distances


def test_distances_grow_with_missing_classes_and_copies(classifier: ReferenceClassifier, digits: ImageData) -> None:
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(1))
    known = classifier.extract(digits.__getitems__(order[:898])[0])[0]
    images, labels = digits.__getitems__(order[898:])
    features = classifier.extract(images)[0]
    missing = [frechet_distance(known, features[labels >= first]) for first in (0, 1, 2, 4, 8)]
    copies = [frechet_distance(known, features[torch.arange(898) % few]) for few in (898, 400, 90, 20)]
    assert missing == sorted(missing) and copies == sorted(copies)
    assert missing[-1] > 3 * missing[0] and copies[-1] > 3 * copies[0]


def test_depths_weigh_alike(classifier: ReferenceClassifier, digits: ImageData) -> None:
    features = classifier.extract(digits.__getitems__(range(len(digits)))[0])[0]
    assert features.shape == (1797, 224) and features.dtype == torch.float32
    # Scaled on the images that it was trained on, here on all of them.
    variances = [float(part.var(dim=0).mean()) for part in features.split(module.WIDTHS, dim=1)]
    assert variances == pytest.approx([1] * 4, rel=0.1)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "classes"), [(8, 2), (17, 3), (64, 2), (250, 2), (256, 12)])
def test_any_size_and_number_of_classes(quick: None, channels: int, size: int, classes: int) -> None:
    data = noise_data(3 * classes, channels, size, classes)
    classifier = train_classifier(data, "cpu")
    features, logits = classifier.extract(data.__getitems__(range(5))[0])
    assert features.shape == (5, 224) and logits.shape == (5, classes)
    assert features.isfinite().all() and logits.isfinite().all()
    assert (classifier.channels, classifier.resolution) == (channels, size)


def test_training_is_deterministic_and_leaves_the_global_generator(quick: None, one_thread: None) -> None:
    before = torch.get_rng_state()
    first = train_classifier(noise_data(), "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert train_classifier(noise_data(), "cpu").digest == first.digest
    assert train_classifier(noise_data(42), "cpu").digest != first.digest


def test_held_out_images_are_not_trained_on(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = noise_data(50), set()
    read = data.__getitems__

    def spy(indices: Tensor) -> tuple[Tensor, Tensor]:
        seen.update(indices.tolist())
        return read(indices)

    monkeypatch.setattr(data, "__getitems__", spy, raising=False)
    monkeypatch.setattr(module, "_run_network", lambda network, data, indices: network(read(indices)[0]))
    classifier = train_classifier(data, "cpu")
    assert seen == set(range(50)) - set(classifier.held_out_indices.tolist())


def test_steps_and_images_in_memory_are_bounded(quick: None) -> None:
    most = []

    class Large(ImageData):
        def __getitems__(self, indices):
            most.append(len(indices))
            return super().__getitems__(torch.as_tensor(indices) % 2)

    data = Large(torch.zeros(200_000, 1, 8, 8, dtype=torch.uint8), torch.arange(200_000) % 2, ("a", "b"))
    classifier = train_classifier(data, "cpu")
    assert classifier.held_out == 10_000 and max(most) <= 128 and sum(most) < 20_000


@pytest.mark.parametrize("counts", [(50, 50), (100, 5, 5), (2, 2), (2, 3, 4, 2), (1000, 7, 2)])
def test_a_fifth_of_each_class_is_held_out(counts: tuple[int, ...]) -> None:
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    indices = held_out_indices(labels)
    assert torch.equal(indices, indices.unique()) and len(indices) == max(1, len(labels) // 5)
    for count, held in zip(counts, torch.bincount(labels[indices], minlength=len(counts)).tolist(), strict=True):
        assert abs(held - count / 5) <= 1 and held < count
    assert torch.equal(indices, held_out_indices(labels))


def test_ten_thousand_at_most_are_held_out() -> None:
    indices = held_out_indices(torch.arange(100_000) % 10)
    assert torch.bincount(indices % 10).tolist() == [1000] * 10


def test_shifts_repeat_the_border() -> None:
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = shift_randomly(images, torch.Generator().manual_seed(0))
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    windows = {(y, x): padded[:, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)}
    found = [[at for at, window in windows.items() if torch.equal(window[i], moved[i])] for i in range(64)]
    assert all(len(at) == 1 for at in found)
    assert len({at[0] for at in found}) > 15        # of 25; 64 draws miss less than two of them on average


def test_features_do_not_depend_on_neighbors(classifier: ReferenceClassifier, digits: ImageData) -> None:
    images = digits.__getitems__(range(300))[0]
    together = classifier.extract(images)
    alone = classifier.extract(images[200:203])
    for all_, few in zip(together, alone, strict=True):
        torch.testing.assert_close(all_[200:203], few, rtol=1e-4, atol=1e-4)     # kernels differ with the batch size
    assert [x.shape for x in classifier.extract(images[:0])] == [(0, 224), (0, 10)]


# -------------------------------------------------------------------------------------------------------------- files


def test_it_is_trained_once(quick: None, one_thread: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = noise_data()
    first = cached_classifier(data, "cpu", tmp_path)
    assert "40 images" in capsys.readouterr().out
    again = cached_classifier(data, "cpu", tmp_path)
    assert capsys.readouterr() == ("", "")
    images = data.__getitems__(range(9))[0]
    for a, b in zip(first.extract(images), again.extract(images), strict=True):
        assert torch.equal(a, b)
    assert (again.digest, again.accuracy, again.class_names) == (first.digest, first.accuracy, first.class_names)
    assert torch.equal(again.held_out_indices, first.held_out_indices)
    cached_classifier(noise_data(fingerprint="b"), "cpu", tmp_path)
    assert "once" in capsys.readouterr().out


def test_damage_is_noticed(quick: None, one_thread: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = cached_classifier(noise_data(), "cpu", tmp_path)
    [weights] = tmp_path.rglob("classifier.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"^extractor: .*classifier.safetensors .*use `classifier`"):
        load_saved_classifier(weights.parent)
    again = cached_classifier(noise_data(), "cpu", tmp_path)
    assert "WARNING" in capsys.readouterr().err and again.digest == first.digest
    assert load_saved_classifier(weights.parent).digest == first.digest


def test_a_classifier_of_another_version_is_an_error(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_classifier(noise_data(), "cpu", tmp_path)
    [about] = tmp_path.rglob("classifier.json")
    assert json.loads(about.read_text())["class_names"] == ["c0", "c1"]
    monkeypatch.setattr(module, "CLASSIFIER_RECIPE", "another")
    with pytest.raises(ValueError, match=r"^extractor: .*version.*use `classifier`"):
        load_saved_classifier(about.parent)


# ------------------------------------------------------------------------------------------------------------- errors


def test_too_few_classes_or_images() -> None:
    pixels = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^extractor: classifier .*1 class.* 2 classes or more.* inception or dinov2"):
        train_classifier(ImageData(pixels, torch.zeros(5, dtype=torch.int64), ("a",)), "cpu")
    for labels, count in (([0, 0, 0, 0, 1], "1 image"), ([0] * 5, "no image")):
        with pytest.raises(ValueError, match=f"^extractor: classifier .*'dog' has {count}.*2 images or more"):
            train_classifier(ImageData(pixels, torch.tensor(labels), ("cat", "dog")), "cpu")

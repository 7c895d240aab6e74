"""Metrics during training equal those of an evaluation on the same images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from ddpm.config.sections import EvaluationConfig
from ddpm.data import ImageData, load_data
from ddpm.diffusion.sampling import plan_seeds
from ddpm.evaluation.extractors import build_extractor
from ddpm.evaluation.feature_tables import Features
from ddpm.evaluation.features import feature_digest
from ddpm.evaluation.in_training import MONITORED, InTrainingMetrics
from ddpm.evaluation.metrics import METRICS, Options
from ddpm.evaluation.reference_classifier import cached_classifier

SETTINGS = EvaluationConfig(every=1, count=300)


class Levels:
    """An extractor whose features are some gray levels of an image."""

    digest = "levels"

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images.float().mean(dim=1)[:, ::7, ::7].flatten(1), None


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


def monitor(settings: EvaluationConfig, data: ImageData, cache: Path) -> InTrainingMetrics:
    return InTrainingMetrics(settings, data, PartialState(cpu=True), cache)


def in_class_order(data: ImageData, count: int) -> torch.Tensor:
    """Return the indices of the first `count` images, sorted by class."""
    chosen = torch.arange(len(data))[:count]
    return chosen[data.labels[chosen].argsort(stable=True)]


@pytest.mark.parametrize("name", MONITORED)
def test_values_equal_those_of_the_metrics(name: str, digits: ImageData, cache: Path) -> None:
    """The data set is small enough that every metric uses all of its 1,797 images."""
    watched = monitor(SETTINGS, digits, cache)
    classifier = cached_classifier(digits, "cpu", cache)
    images = torch.randint(0, 256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    metrics = watched.measure(watched.extract_features(images))
    real = classifier.extract(digits.__getitems__(range(len(digits)))[0])
    samples = classifier.extract(images)
    pixels = torch.zeros(1, 1)      # not used by these metrics
    tables = [
        Features(features, pixels, logits, logits, labels)
        for (features, logits), labels in ((samples, watched.labels), (real, digits.labels))
    ]
    expected = METRICS[name].measure(*tables, Options(replicates=20))[name].value
    # The reference classifier sees other batches here, which moves features by float32 roundings.
    assert metrics[name] == pytest.approx(expected, rel=1e-5)


def test_monitored_metrics_are_the_first_of_their_entry() -> None:
    for name in MONITORED:
        assert next(iter(METRICS[name].better)) == name


def test_the_real_images_themselves_are_perfect(digits: ImageData, cache: Path) -> None:
    watched = monitor(replace(SETTINGS, count=len(digits)), digits, cache)
    indices = digits.labels.argsort(stable=True)
    assert torch.equal(watched.labels, digits.labels[indices])
    classifier = cached_classifier(digits, "cpu", cache)
    metrics = watched.measure(watched.extract_features(digits.__getitems__(indices)[0]))
    # Of a distance of some hundreds; what is left is the rounding of a matrix root.
    assert metrics["frechet_distance"] == pytest.approx(0, abs=1e-3)
    predicted = classifier.extract(digits.__getitems__(indices)[0])[1].argmax(1)
    assert metrics["accuracy"] == pytest.approx(float((predicted == watched.labels).double().mean()), abs=1e-12)
    assert metrics["accuracy"] > 0.95


def test_batches_do_not_matter(digits: ImageData, cache: Path) -> None:
    """Features extracted in several batches, as on several processes, or in one."""
    watched = monitor(SETTINGS, digits, cache)
    images = digits.__getitems__(in_class_order(digits, 300))[0]
    parts = [watched.extract_features(part) for part in images.split(64)]
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    whole = watched.measure(watched.extract_features(images))
    assert watched.measure(together) == pytest.approx(whole, rel=1e-5)      # float32 roundings of the features


def test_seeds_are_those_of_sampling(digits: ImageData, cache: Path) -> None:
    """The j-th image of a class has the seed that scripts/sample.py gives it."""
    watched = monitor(replace(SETTINGS, seed=7), digits, cache)
    for c, per_class in enumerate(watched.labels.bincount(minlength=10).tolist()):
        labels, seeds = plan_seeds([c], per_class, 7, 10)
        mine = (watched.labels == c).nonzero()[:, 0].tolist()
        assert [watched.labels[i].item() for i in mine] == labels
        assert [watched.seeds[i] for i in mine] == seeds
    assert len(set(watched.seeds)) == 300


def test_identity_changes_with_every_option_that_affects_values(digits: ImageData, cache: Path) -> None:
    known = monitor(SETTINGS, digits, cache).identity
    assert monitor(replace(SETTINGS, every=5), digits, cache).identity == known
    for change in ({"count": 301}, {"metric": "accuracy"}, {"sampler": "ddim"}, {"steps": 9}, {"seed": 1}):
        assert monitor(replace(SETTINGS, **change), digits, cache).identity != known
    classifier = cached_classifier(digits, "cpu", cache)
    assert known["features"] == feature_digest(build_extractor("classifier", digits, "cpu", cache), classifier)


def test_better_direction_is_that_of_the_metric(digits: ImageData, cache: Path) -> None:
    better = {name: monitor(replace(SETTINGS, metric=name), digits, cache).better for name in MONITORED}
    assert better == {"frechet_distance": "lower", "kernel_distance": "lower", "accuracy": "higher"}


def test_data_of_one_class(cache: Path) -> None:
    """Distances do not need classes, the classifier and accuracy do."""
    one = ImageData(
        torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
        torch.zeros(50, dtype=torch.int64),
        ("only",),
        fingerprint="fifty",
    )
    settings = replace(SETTINGS, extractor=f"{__name__}:Levels", count=20)
    watched = monitor(settings, one, cache)
    metrics = watched.measure(watched.extract_features(one.__getitems__(range(20))[0]))
    assert metrics.keys() == {"frechet_distance", "kernel_distance"}
    others = "use evaluation.metric frechet_distance or kernel_distance"
    with pytest.raises(ValueError, match=rf"^evaluation\.metric: accuracy .*{others}"):
        monitor(replace(settings, metric="accuracy"), one, cache)
    with pytest.raises(ValueError, match=r"^evaluation\.extractor: .*inception or dinov2"):
        monitor(SETTINGS, one, cache)


def few(data: ImageData, per_class: int) -> ImageData:
    indices = torch.cat([(data.labels == c).nonzero()[:per_class, 0] for c in range(2)])
    images, labels = data.__getitems__(indices)
    return ImageData(images, labels, ("0", "1"), fingerprint=f"{per_class} of two digits")


REFUSED = {
    "too few drawn": (150, {"count": 200}, r"^evaluation\.metric: frechet_distance .* 225 images .* 200.*"
                      r"evaluation\.count, or use evaluation\.metric kernel_distance or accuracy"),
    "too few real": (100, {}, r"^evaluation\.metric: frechet_distance .* 225 real images .* 200[^;]*; use eval"),
    "unknown extractor": (200, {"extractor": "clasifier"}, r"^evaluation\.extractor: 'clasifier' .*mean classifier"),
    "a class of one image": (1, {}, r"^evaluation\.extractor: .*class '0' .* 2 images or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_training(case: str, digits: ImageData, cache: Path) -> None:
    per_class, change, expected = REFUSED[case]
    with pytest.raises(ValueError, match=expected) as refusal:
        monitor(replace(SETTINGS, **change), few(digits, per_class), cache)
    assert "\n" not in str(refusal.value)


def test_few_images_leave_other_metrics(digits: ImageData, cache: Path) -> None:
    watched = monitor(replace(SETTINGS, count=20, metric="kernel_distance"), digits, cache)
    metrics = watched.measure(watched.extract_features(digits.__getitems__(in_class_order(digits, 20))[0]))
    assert metrics.keys() == {"kernel_distance", "accuracy"}

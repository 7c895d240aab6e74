"""Feature extractors: batching, digests, names, output validation, and errors if one is not available."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from ddpm.data import ImageData
from ddpm.evaluation import reference_classifier as classifier_module
from ddpm.evaluation.extraction import extract_in_batches, extractor_digest
from ddpm.evaluation.extractors import EXTRACTORS, build_extractor
from ddpm.evaluation.reference_classifier import cached_classifier

CPU = torch.device("cpu")
HAS_TORCH_FIDELITY = importlib.util.find_spec("torch_fidelity") is not None
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None

COLORED = SimpleNamespace(channels=3, resolution=8)


def images_of(count: int, channels: int = 3, size: int = 8) -> Tensor:
    draws = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=draws)


@pytest.fixture
def data() -> ImageData:
    return ImageData(images_of(20), torch.arange(20) % 2, ("cat", "dog"), fingerprint="a")


# ----------------------------------------------------------------------------------------------- batches and digests


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_batches_are_joined(count: int) -> None:
    images, seen = images_of(count), []

    def extract_features(batch: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(batch))
        return batch.double().mean(dim=(2, 3)), batch.double().amax(dim=(1, 2, 3))[:, None]

    features, logits = extract_in_batches(images, CPU, extract_features, 4)
    assert max(seen) <= 4 and features.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(features, images.double().mean(dim=(2, 3)).float(), rtol=0, atol=0)
    assert logits.shape == (count, 1)


def test_digests_differ_between_recipes_and_weights() -> None:
    layer = nn.Linear(2, 3)
    weights = layer.state_dict()
    first = extractor_digest("a", weights)
    assert first == extractor_digest("a", dict(reversed(weights.items()))) and re.fullmatch("[0-9a-f]{64}", first)
    turned = {**weights, "weight": weights["weight"].view(2, 3)}
    others = [("b", weights), ("a", turned), ("a", None), ("a", layer.double().state_dict())]
    assert len({first, *(extractor_digest(*other) for other in others)}) == 5


# --------------------------------------------------------------------------------------------------- names and folders


def test_the_classifier_by_name_and_by_folder(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(classifier_module, "STEPS", (2, 2))
    classifier = build_extractor("classifier", data, "cpu", tmp_path)
    [folder] = (path for path in (tmp_path / "classifiers").iterdir() if path.is_dir())
    assert classifier.name == "classifier" and classifier.digest == cached_classifier(data, CPU, tmp_path).digest
    assert build_extractor(str(folder), data, CPU, tmp_path / "elsewhere").digest == classifier.digest
    other = ImageData(images_of(4, 1, 9), torch.arange(4) % 2, ("a", "b"))
    with pytest.raises(ValueError, match=r"^extractor: .*9x9 .*8x8 .*use `classifier`$"):
        build_extractor(str(folder), other, CPU, tmp_path)
    with pytest.raises(ValueError, match=r"^extractor: .*classifier\.json"):
        build_extractor(str(tmp_path), data, CPU, tmp_path)


def test_unknown_names(data: ImageData, tmp_path: Path) -> None:
    allowed = r"^extractor: 'inceptoin' .*classifier, inception, dinov2, .*package\.module:Name; did you mean inception"
    with pytest.raises(ValueError, match=allowed):
        build_extractor("inceptoin", data, CPU, tmp_path)
    assert list(EXTRACTORS) == ["classifier", "inception", "dinov2"]


# --------------------------------------------------------------------------------------------------- custom extractors

OWN = '''
import torch
class Means:
    def extract(self, images):
        return images.float().mean(dim=(2, 3)), None
class Net(torch.nn.Module):
    classes = 2
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, 2))
        self.drop = torch.nn.Dropout(0.5)
    def extract(self, images):
        means = images.float().mean(dim=(2, 3))
        return means.double(), self.drop(means @ self.weight)
def named():
    made = Means()
    made.digest = "0123"
    return made
def with_argument(size): return Means()
def nothing(): return object()
number = 3
def answering(answer):
    made = Means()
    made.extract = lambda images: answer(images.float().mean(dim=(2, 3)))
    return lambda: made
tensor = answering(lambda f: f)
integers = answering(lambda f: (f.long(), None))
lists = answering(lambda f: (f.tolist(), None))
short = answering(lambda f: (f[1:], None))
flat = answering(lambda f: (f[:, 0], None))
not_finite = answering(lambda f: (f / (torch.arange(len(f)) != 1)[:, None], None))
bad_logits = answering(lambda f: (f, f[:, :, None]))
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that builds an extractor from a module in the current directory, by name."""
    (tmp_path / "mine_for_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine_for_test", None)
    return lambda name: build_extractor(name if ":" in name else f"mine_for_test:{name}", COLORED, CPU, tmp_path)


def test_custom_extractors(own) -> None:
    images = images_of(6)
    means = images.double().mean(dim=(2, 3)).float()
    features, logits = own("Means").extract(images)
    torch.testing.assert_close(features, means)
    assert logits is None and own("Means").name == "mine_for_test:Means"
    net = own("Net")
    features, logits = net.extract(images)
    assert features.dtype == torch.float32
    torch.testing.assert_close(logits, means @ torch.ones(3, 2))        # in evaluation: nothing is dropped


def test_digest_of_a_custom_extractor(own, tmp_path: Path) -> None:
    assert own("named").digest == "0123"
    before = {name: own(name).digest for name in ("Means", "Net")}
    assert len(set(before.values())) == 2 and own("Net").digest == before["Net"]
    sys.modules["mine_for_test"].torch = SimpleNamespace(ones=torch.zeros, nn=nn)       # other weights, the same source
    assert own("Net").digest != before["Net"] and own("Means").digest == before["Means"]
    (tmp_path / "mine_for_test.py").write_text(OWN + "# another line\n")
    assert own("Means").digest != before["Means"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Means", "no_such_module_here.*package.module:Name"),
        ("mine_for_test.sub:Means", "mine_for_test.sub.*package.module:Name"),
        (":Means", "package.module:Name"),
        ("Mean", "Mean.*package.module:Name"),
        ("number", "number.*without required parameters"),
        ("with_argument", "with_argument.*without required parameters"),
        ("nothing", r"object.*extract\(images\)"),
    ],
)
def test_names_that_give_no_extractor(own, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^extractor: .*{message}") as caught:
        own(name)
    assert "\n" not in str(caught.value)


def test_output_is_part_of_the_digest(own) -> None:
    """The weights of a class may be in a file that the package does not know."""
    before = own("Means").digest
    sys.modules["mine_for_test"].Means.extract = lambda self, images: (images.float().amax(dim=(2, 3)), None)
    assert own("Means").digest != before and own("named").digest == "0123"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensor", r"Tensor; .*features \(N, D\) and logits \(N, K\) or None"),
        ("integers", r"features .*torch.int64; .*float tensor .*4 images"),
        ("lists", "features .*list; .*float tensor"),
        ("short", r"features .*\(3, 3\); .*float tensor .*4 images"),
        ("flat", r"features .*\(4,\); .*float tensor"),
        ("not_finite", "features .*not finite; .*finite float tensor"),
        ("bad_logits", r"logits .*\(4, 3, 1\); .*float tensor"),
    ],
)
def test_invalid_output(own, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^extractor: mine_for_test:{name}.extract .*{message}") as caught:
        own(name).extract(images_of(4))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- inception


def test_inception_without_torch_fidelity(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing("torch_fidelity"), *sys.meta_path])
    message = r"^extractor: inception .*torch-fidelity.*pip install 'adagn-ddpm\[metrics\]'"
    with pytest.raises(ValueError, match=message):
        build_extractor("inception", data, CPU, tmp_path)


class Missing:
    """An importer that does not find a package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def fake_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace torch-fidelity by a small network, and return the path of its weights, which does not exist."""

    class Network(nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            assert images.dtype == torch.uint8 and images.shape[1] == 3
            values = self.layer(images.float().mean(dim=(2, 3)))
            return values, -values

    package, module = ModuleType("torch_fidelity"), ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Network
    module.URL_INCEPTION_V3 = "http://127.0.0.1:1/weights-0123abcd.pth"
    package.feature_extractor_inceptionv3 = module
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints/weights-0123abcd.pth"


def test_inception_without_network(data: ImageData, tmp_path: Path, fake_fidelity: Path) -> None:
    with pytest.raises(ValueError, match=r"^extractor: ") as caught:
        build_extractor("inception", data, CPU, tmp_path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(str(fake_fidelity))
    assert "http://127.0.0.1:1/weights-0123abcd.pth" in message
    fake_fidelity.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^extractor: .*copy it to .*weights-0123abcd.pth"):
        build_extractor("inception", data, CPU, tmp_path)


def test_inception_with_its_weights_in_place(data: ImageData, tmp_path: Path, fake_fidelity: Path) -> None:
    layer = nn.Linear(3, 4)
    fake_fidelity.parent.mkdir(parents=True)
    torch.save({f"layer.{name}": values for name, values in layer.state_dict().items()}, fake_fidelity)
    extractor = build_extractor("inception", data, CPU, tmp_path)
    gray = images_of(40, 1)
    features, logits = extractor.extract(gray)
    expected = layer(gray.float().mean(dim=(2, 3)).expand(-1, 3)).detach()
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, -expected)


@pytest.mark.skipif(not HAS_TORCH_FIDELITY, reason="torch-fidelity is not installed")
def test_inception_of_torch_fidelity(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the real network with random weights; torchvision, which it imports but does not use, may be missing."""
    if importlib.util.find_spec("torchvision") is None:
        stand_in = MagicMock(__path__=[], __spec__=None)
        for name in ("", ".transforms", ".transforms.functional", ".datasets", ".models", ".utils"):
            monkeypatch.setitem(sys.modules, f"torchvision{name}", stand_in)
    from torch_fidelity import feature_extractor_inceptionv3 as module

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
    file = tmp_path / "checkpoints" / module.URL_INCEPTION_V3.rpartition("/")[2]
    file.parent.mkdir()
    torch.save({}, file)
    torch.manual_seed(0)
    network = module.FeatureExtractorInceptionV3("a", ["2048"], feature_extractor_weights_path=str(file))
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.save(network.state_dict(), file)
    extractor = build_extractor("inception", data, CPU, tmp_path)
    images = images_of(3)
    features, logits = extractor.extract(images)
    assert features.shape == (3, 2048) and logits.shape == (3, 1008)
    torch.testing.assert_close(features, network(images)[0])
    torch.testing.assert_close(logits, features @ network.fc.weight.T, rtol=1e-4, atol=1e-5)    # float32 sums


# ------------------------------------------------------------------------------------------------------------- dinov2


def test_dinov2_without_transformers(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = r"^extractor: dinov2 needs transformers; run pip install 'adagn-ddpm\[dinov2\]'$"
    with pytest.raises(ValueError, match=message):
        build_extractor("dinov2", data, CPU, tmp_path)


class FakeDino(nn.Module):
    """A DINOv2 whose tokens are the mean and the first pixel of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    @classmethod
    def from_pretrained(cls, model: str, **options: object) -> tuple["FakeDino", dict]:
        if model == "absent":
            raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")
        return cls(), {"missing_keys": ["a"] if model == "other" else []}

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        assert pixel_values.shape[1:] == (3, 224, 224)
        tokens = torch.stack([pixel_values.mean(dim=(2, 3)), pixel_values[:, :, 0, 0]], dim=1)
        return SimpleNamespace(last_hidden_state=self.scale * tokens)


@pytest.mark.parametrize("size", [8, 224, 300])
def test_dinov2_gets_normalized_images(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(Dinov2Model=FakeDino))
    extractor = build_extractor("dinov2", data, CPU, tmp_path)
    gray = (torch.arange(33) * 7).to(torch.uint8)[:, None, None, None].expand(-1, 1, size, size)
    features, logits = extractor.extract(gray)
    values = torch.arange(33)[:, None] * 7 / 255
    expected = (values - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)        # float32 means of 50,176 pixels
    assert logits is None


def test_dinov2_without_weights(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(Dinov2Model=FakeDino))
    message = r"^extractor: dinov2 cannot load absent .*--extractor dinov2:FOLDER"
    with pytest.raises(ValueError, match=message) as caught:
        build_extractor("dinov2:absent", data, CPU, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^extractor: other .*DINOv2"):
        build_extractor("dinov2:other", data, CPU, tmp_path)


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_dinov2_of_transformers(data: ImageData, tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 518}
    Dinov2Model(Dinov2Config(**size)).save_pretrained(tmp_path / "dino")
    extractor = build_extractor(f"dinov2:{tmp_path / 'dino'}", data, CPU, tmp_path)
    images = images_of(3, 1, 28)
    features, _ = extractor.extract(images)
    assert features.shape == (3, 32) and features.isfinite().all()
    torch.testing.assert_close(extractor.extract(images[1:2])[0], features[1:2], rtol=1e-4, atol=1e-5)  # float32 sums


@pytest.mark.parametrize("channels", [2, 4, 5, 8])
@pytest.mark.parametrize("name", ["inception", "dinov2", "dinov2:facebook/dinov2-large"])
def test_networks_for_photographs_refuse_other_channels(name: str, channels: int, tmp_path: Path, refused) -> None:
    """Before any weights are downloaded."""
    other = ImageData(images_of(4, channels, 8), torch.tensor([0, 0, 1, 1]), ("a", "b"), fingerprint="f")
    with refused("extractor", name.partition(":")[0], str(channels), "classifier"):
        build_extractor(name, other, CPU, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_the_reference_classifier_takes_any_channels(channels: int, tmp_path: Path) -> None:
    """The classes differ in the last channel only."""
    pixels, labels = images_of(80, channels, 8), torch.arange(80) % 2
    pixels[:, -1] = pixels[:, -1] // 2 + 127 * labels[:, None, None].to(torch.uint8)
    data = ImageData(pixels, labels, ("a", "b"), fingerprint=f"channels {channels}")
    classifier = build_extractor("classifier", data, CPU, tmp_path)
    assert classifier.channels == channels and classifier.accuracy.value == 1
    again = build_extractor(str(next((tmp_path / "classifiers").glob("*/"))), data, CPU, tmp_path)
    for found, expected in zip(again.extract(pixels), classifier.extract(pixels), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("channels", "able"), [(1, "inception or dinov2"), (3, "inception or dinov2"), (5, "package")])
def test_remedies_of_images_without_classes_fit_their_channels(
    channels: int, able: str, tmp_path: Path, refused
) -> None:
    data = ImageData(images_of(4, channels), torch.zeros(4, dtype=torch.int64), (), fingerprint="f")
    with refused("extractor: classifier", able):
        build_extractor("classifier", data, CPU, tmp_path)
    if channels == 5:
        with pytest.raises(ValueError, match=r"package.module:Name$") as error:
            build_extractor("inception", data, CPU, tmp_path)
        assert "use classifier" not in str(error.value)

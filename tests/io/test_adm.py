"""Files of OpenAI's weights: what is read, what is refused, and what it computes then."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddpm.io.adm import build_on_meta_device, find_matching_presets, layout, load_adm, read_weights
from ddpm.io.adm_flags import PRESETS, Flags
from ddpm.io.unet2d import to_unet2d

GOLDEN = Path(__file__).parents[1] / "golden"
FLAGS = {           # of the golden networks, as their training command would have given them
    "adm_scale_shift_32": Flags(
        image_size=32,
        num_channels=32,
        num_res_blocks=1,
        attention_resolutions="16,8",
        channel_mult="1,2,2",
        class_cond=True,
        num_head_channels=16,
        resblock_updown=True,
        use_new_attention_order=True,
        learn_sigma=True,
    ),
    "improved_additive_16": Flags(
        image_size=16,
        num_channels=32,
        attention_resolutions="8",
        channel_mult="1,2",
        class_cond=True,
        use_scale_shift_norm=False,
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def golden(family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights as the reference names them, float16; and its inputs and output."""
    path = GOLDEN / f"{family}.safetensors"
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}     # noqa: SIM118 (not a mapping)
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    return weights, {name: t for name, t in tensors.items() if not name.startswith("model.")}


def assert_equals_the_reference(path: Path, flags: Flags, tensors: dict[str, Tensor]) -> None:
    unet = load_adm(path, flags)
    assert unet.dtype == torch.float32 and not unet.training and unet.null_label is None
    with torch.no_grad():
        output = unet(tensors["input.x"], tensors["input.t"], tensors["input.y"]).sample
    # What the golden files promise: float32 sums of a few thousand terms in another order, for outputs of order 1.
    torch.testing.assert_close(output, tensors["output"].float(), rtol=0, atol=2e-5)


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("writer", ["zip", "legacy", "float32", "safetensors"])
@pytest.mark.parametrize("family", FLAGS)
def test_files_of_every_kind_equal_the_reference(family: str, writer: str, tmp_path: Path) -> None:
    weights, tensors = golden(family)
    path = tmp_path / ("model.safetensors" if writer == "safetensors" else "model.pt")
    if writer == "safetensors":
        save_file(weights, path)
    elif writer == "float32":
        torch.save({name: t.float() for name, t in weights.items()}, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=writer == "zip")
    assert_equals_the_reference(path, FLAGS[family], tensors)


@pytest.mark.parametrize("family", FLAGS)
def test_both_orders_of_attention_rows_equal_the_reference(family: str, tmp_path: Path) -> None:
    weights, tensors = golden(family)
    flags = FLAGS[family]
    for name in [name for name in weights if ".qkv." in name]:
        rows = weights[name]
        heads = len(rows) // 3 // flags.num_head_channels if flags.num_head_channels > 0 else flags.num_heads
        # (q k v, head, channel) <-> (head, q k v, channel), written as a permutation of row numbers
        d = len(rows) // 3 // heads
        permutation = torch.empty(len(rows), dtype=torch.int64)
        for part in range(3):
            for head in range(heads):
                for c in range(d):
                    new, legacy = (part * heads + head) * d + c, (head * 3 + part) * d + c
                    to, of = (legacy, new) if flags.use_new_attention_order else (new, legacy)
                    permutation[to] = of
        weights[name] = rows[permutation]
    torch.save(weights, tmp_path / "other.pt")
    other = replace(flags, use_new_attention_order=not flags.use_new_attention_order)
    assert_equals_the_reference(tmp_path / "other.pt", other, tensors)
    with pytest.raises(AssertionError):
        assert_equals_the_reference(tmp_path / "other.pt", flags, tensors)


def test_training_the_model_leaves_the_file_alone(tmp_path: Path) -> None:
    weights, tensors = golden("improved_additive_16")
    torch.save({name: t.float() for name, t in weights.items()}, tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    unet = load_adm(tmp_path / "model.pt", FLAGS["improved_additive_16"])
    assert all(p.requires_grad for p in unet.parameters())
    with torch.no_grad():
        for p in unet.parameters():
            p.add_(1)
    assert (tmp_path / "model.pt").read_bytes() == before
    assert_equals_the_reference(tmp_path / "model.pt", FLAGS["improved_additive_16"], tensors)


def test_an_unconditional_model_ignores_its_only_label(tmp_path: Path) -> None:
    weights, tensors = golden("improved_additive_16")
    del weights["label_emb.weight"]
    torch.save(weights, tmp_path / "model.pt")
    unet = load_adm(tmp_path / "model.pt", replace(FLAGS["improved_additive_16"], class_cond=False))
    assert unet.config.num_classes == 0 and unet.null_label == 0 and not unet.class_embed.weight.any()
    x, t = tensors["input.x"], tensors["input.t"]
    with torch.no_grad():
        assert torch.equal(unet(x, t).sample, unet(x, t, torch.zeros(len(x), dtype=torch.int64)).sample)


class RunsCode:
    """What a pickle can do."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


GOOD = {"input_blocks.0.0.weight": torch.zeros(8, 3, 3, 3), "output_blocks.0.0.in_layers.0.weight": torch.zeros(8)}
FOREIGN: dict[str, tuple[Any, str]] = {
    "code": ({"weights": RunsCode()}, r"posix\.mkdir.*dict of tensors"),
    "a module": (torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
    "a list": ([torch.zeros(3)], r"list; .*dict of tensors"),
    "a tensor": (torch.zeros(3), r"Tensor; .*dict of tensors"),
    "nothing": ({}, r"nothing.*dict of tensors"),
    "optimizer": (
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict(), r"optimizer",
    ),
    "lightning": (
        {"epoch": 1, "global_step": 5, "state_dict": GOOD},
        r"epoch, global_step, state_dict",
    ),
    "classifier": ({"input_blocks.0.0.weight": GOOD["input_blocks.0.0.weight"]}, r"classifier"),
    "upsampler": ({**GOOD, "input_blocks.0.0.weight": torch.zeros(8, 6, 3, 3)}, r"upsampler"),
    "wrapped": ({f"module.{name}": t for name, t in GOOD.items()}, r"another network \(of module\.input_blocks"),
    "another network": ({"conv_in.weight": torch.zeros(3)}, r"another network \(of conv_in\.weight, \.\.\.\)"),
    "vectors": ({**GOOD, "input_blocks.0.0.weight": torch.zeros(8)}, r"another network"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused_in_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, expected = FOREIGN[kind]
    torch.save(content, "file.pt")
    assert_refused(Path("file.pt"), expected)
    assert not Path("ran").exists()


@pytest.mark.parametrize("damage", ["truncated", "legacy, truncated", "empty", "text", "safetensors, truncated"])
def test_damaged_files_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / ("file.safetensors" if "safetensors" in damage else "file.pt")
    tensors = {name: torch.randn(64, 64) for name in "abc"}
    if "safetensors" in damage:
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization="legacy" not in damage)
    content = {"empty": b"", "text": b"hello\n" * 99}.get(damage, path.read_bytes()[: path.stat().st_size // 2])
    path.write_bytes(content)
    assert_refused(path, r"(torch\.save|safetensors); download it again")


def test_missing_files_are_refused_in_one_line(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.pt", r"none\.pt: no such file$")
    assert_refused(tmp_path, r"no such file$")


def assert_refused(path: Path, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        read_weights(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------- presets

# Table 11 of the paper, to the parameter; improved-diffusion's by its specification.
PARAMETERS = {
    "imagenet64": 295.90,
    "imagenet128": 421.53,
    "imagenet256": 553.84,
    "imagenet256_uncond": 552.81,
    "imagenet512": 559.00,
    "lsun256": 552.81,
    "improved_imagenet64": 273.05,
    "improved_lsun256": 113.68,
}


def of_preset(name: str) -> torch.nn.Module:
    flags = PRESETS[name]
    return build_on_meta_device(
        **flags.architecture(),
        in_channels=3,
        out_channels=6 if flags.learn_sigma else 3,
        num_classes=1000 if flags.class_cond else None,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    unet = of_preset(name)
    unused = 0 if PRESETS[name].class_cond else unet.class_embed.weight.numel()
    assert sum(p.numel() for p in unet.parameters()) - unused == pytest.approx(1e6 * PARAMETERS[name], abs=5e3)
    assert (unet.null_label is None) == PRESETS[name].class_cond


def test_presets_are_what_the_paper_says() -> None:
    assert {name: flags.noise_schedule for name, flags in PRESETS.items() if "64" in name} == {
        "imagenet64": "cosine", "improved_imagenet64": "cosine",
    }
    assert {name for name, flags in PRESETS.items() if flags.noise_schedule == "linear"} == {
        name for name in PRESETS if "64" not in name
    }
    assert [name for name, flags in PRESETS.items() if flags.use_new_attention_order] == ["imagenet64"]
    assert all(flags.prediction == "eps" and flags.learn_sigma for flags in PRESETS.values())
    assert {name for name, flags in PRESETS.items() if flags.diffusion_steps != 1000} == {"improved_imagenet64"}


@pytest.mark.parametrize("name", PRESETS)
def test_unet2d_holds_what_it_can_of_the_presets(name: str) -> None:
    unet = of_preset(name)
    if name in ("imagenet128", "improved_imagenet64"):
        with pytest.raises(ValueError, match=r"^model\.num_heads: .*model\.head_channels"):
            to_unet2d(unet)
    elif name == "imagenet512":
        with pytest.raises(ValueError, match=r"^model\.channel_mult: .*0\.5.*first factor of 1"):
            to_unet2d(unet)
    else:
        theirs = to_unet2d(unet)
        unused = 0 if PRESETS[name].class_cond else unet.class_embed.weight.numel()
        count = sum(p.numel() for p in unet.parameters()) - unused
        assert sum(p.numel() for p in theirs.parameters()) == count


def as_file(name: str) -> dict[str, Tensor]:
    """Tensors of a preset's names and shapes, which take no memory; attention's as convolutions."""
    flags = PRESETS[name]
    tensors = {}
    for theirs, (_, shape) in layout(of_preset(name), flags.class_cond).items():
        one_dimensional = theirs.endswith(("qkv.weight", "proj_out.weight"))
        tensors[theirs] = torch.empty((*shape, 1) if one_dimensional else shape, device="meta")
    return tensors


@pytest.mark.parametrize("name", PRESETS)
def test_the_matching_presets_are_found_by_shape(name: str) -> None:
    same = {"imagenet256_uncond", "lsun256"}
    assert set(find_matching_presets(as_file(name))) == (same if name in same else {name})


def test_a_wrong_preset_names_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    path.touch()
    for name, wrong, expected in [
        ("imagenet64", "imagenet128", r"time_embed\.0\.weight is 768 x 192, not 1024 x 256; .*: imagenet64$"),
        ("imagenet256", "imagenet512", r"; matching presets: imagenet256$"),
        ("imagenet256", "lsun256", r"label_emb\.weight is left over; .*: imagenet256$"),
        ("lsun256", "imagenet256", r"label_emb\.weight is missing; .*: imagenet256_uncond, lsun256$"),
    ]:
        monkeypatch.setattr("ddpm.io.adm.read_weights", lambda _, name=name: as_file(name))
        with pytest.raises(ValueError, match=expected) as error:
            load_adm(path, PRESETS[wrong])
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_weights_that_no_preset_fits_say_so(tmp_path: Path) -> None:
    weights, _ = golden("improved_additive_16")
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"first difference: time_embed\.0\.weight is .*; matching presets: none"):
        load_adm(tmp_path / "model.pt", PRESETS["imagenet64"])


# ------------------------------------------------------------------------------------------------------------- flags


def test_flags_are_the_constructor_arguments_of_the_golden_networks() -> None:
    for family, flags in FLAGS.items():
        path = GOLDEN / f"{family}.safetensors"
        if not path.is_file():
            pytest.skip("the golden files are not here")
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["unet_config"])
        for key in ("in_channels", "out_channels", "num_classes"):
            config.pop(key)         # inferred from the weights
        assert config.pop("use_new_attention_order") == flags.use_new_attention_order
        assert config == {key: value for key, value in flags.architecture().items() if key in config}


def test_flags_are_read_as_the_command_line_of_the_reference_takes_them() -> None:
    given = {
        "attention_resolutions": "32,16,8", "class_cond": True, "diffusion_steps": 1000, "dropout": 0.1,
        "image_size": 64, "learn_sigma": True, "noise_schedule": "cosine", "num_channels": 192,
        "num_head_channels": 64, "num_res_blocks": 3, "resblock_updown": True, "use_new_attention_order": True,
        "use_fp16": True, "use_scale_shift_norm": True, "timestep_respacing": "250",
    }
    assert Flags.read(given) == PRESETS["imagenet64"]
    assert Flags.read({**given, "attention_resolutions": [32, 16, 8]}) == PRESETS["imagenet64"]
    assert Flags.read({}) == Flags()
    assert Flags.read({"dropout": 0, "attention_resolutions": 16}) == Flags(attention_resolutions="16")
    assert Flags.read({"predict_xstart": True}).prediction == "x_0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_chanels": 8}, r"num_chanels .*did you mean num_channels"),
        ({"num_channels": "many"}, r"num_channels: 'many' .*whole number"),
        ({"num_channels": True}, r"num_channels: True .*whole number"),
        ({"class_cond": "always"}, r"class_cond: 'always' .*true or false"),
        ({"dropout": "none"}, r"dropout: 'none' .*number"),
        ({"noise_schedule": "cosin"}, r"noise_schedule: 'cosin' .*linear, cosine; did you mean cosine"),
        ({"channel_mult": "1,two"}, r"channel_mult: '1,two' .*numbers above 0"),
        ({"channel_mult": [1, 0]}, r"channel_mult: '1,0' .*numbers above 0"),
        ({"channel_mult": "1,inf"}, r"channel_mult: '1,inf' .*numbers above 0"),
        ({"attention_resolutions": "16,0.5"}, r"attention_resolutions: '16,0\.5' .*numbers above 0"),
        ({"image_size": 48}, r"channel_mult: .*32, 64, 128, 256, 512 have a default"),
        ({"num_heads_upsample": 2}, r"num_heads_upsample: 2 .*allowed is num_heads, 4"),
        ({"diffusion_steps": 4000}, r"rescale_timesteps: .*allowed .*diffusion_steps 4000: false"),
        (
            {"diffusion_steps": 4000, "rescale_timesteps": True},
            r"rescale_timesteps: true .*allowed .*diffusion_steps 4000: false",
        ),
    ],
)
def test_flags_that_are_refused(given: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        Flags.read(given)
    assert "\n" not in str(error.value)


def test_flags_that_have_no_effect_or_none_here() -> None:
    assert Flags.read({"diffusion_steps": 4000, "rescale_timesteps": False}).diffusion_steps == 4000
    assert Flags.read({"rescale_timesteps": True}).rescale_timesteps        # 1000 * t / 1000 = t
    assert Flags.read({"num_heads_upsample": 2, "num_head_channels": 32}).num_head_channels == 32
    # The reference passes over resolutions that its levels never have.
    unet = build_on_meta_device(
        **Flags(image_size=32, attention_resolutions="64,16,5").architecture(),
        in_channels=3,
        out_channels=3,
        num_classes=None,
    )
    assert unet.config.attention_resolutions == (16,)

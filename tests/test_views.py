"""Views against torchvision's transforms, which work on one image at a time."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from stochcon.method.large import cut_views
from torch import Tensor
from torchvision.transforms import v2

from stochcon.config import Views
from stochcon.method import draws, views
from stochcon.views import eval_view, make_views

NOTHING: dict[str, Any] = {
    "flip": 0,
    "jitter": 0,
    "grey": 0,
    "blur": (0, 0, 0),
    "solarize": (0, 0, 0),
    "mean": (0, 0, 0),
    "std": (1, 1, 1),
}
WHOLE: dict[str, Any] = {"global_scale": (1, 1), "local_scale": (1, 1), "ratio": (1, 1)}


@pytest.fixture(autouse=True)
def _same_draws_in_every_run() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def plain(**changes: Any) -> Views:
    """Whole images in 0 to 1 at the canvas's 8 x 8 pixels, and nothing else but the changes."""
    return Views(**{**NOTHING, **WHOLE, "global_size": 8, "local_size": 8, "local_views": 2, **changes})


def noise(n: int, *, channels: int = 3, size: int = 8, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(low, high, (n, channels, size, size), dtype=torch.uint8)


def constant(*colour: int, n: int = 64, size: int = 8) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(n, -1, size, size).contiguous()


def all_views(images: Tensor, config: Views) -> Tensor:
    return torch.cat(make_views(images, config))


# --- Shapes and errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "local_views", "height", "width"), [(3, 8, 32, 32), (1, 3, 20, 31), (3, 0, 9, 8)]
)
def test_shapes_and_memory(channels: int, local_views: int, height: int, width: int) -> None:
    config = Views(local_views=local_views, mean=(0.5,) * channels, std=(0.2,) * channels)
    images = torch.randint(256, (5, channels, height, width), dtype=torch.uint8)
    global_views, local_views_ = make_views(images, config)
    assert global_views.shape == (2, 5, channels, 32, 32)
    assert local_views_.shape == (local_views, 5, channels, 16, 16)
    assert eval_view(images, config).shape == (5, channels, 32, 32)
    for made in (global_views, local_views_):
        assert made.dtype == torch.float32
        assert made.isfinite().all()
        assert made.permute(0, 1, 3, 4, 2).is_contiguous()  # a batch of views is channels_last


@pytest.mark.parametrize("make", [make_views, eval_view])
@pytest.mark.parametrize(
    ("images", "line"),
    [
        (torch.zeros(2, 3, 8, 8), r"images must be uint8 .* not torch.float32 \(2, 3, 8, 8\)"),
        (noise(1)[0], r"images must be uint8 .* not torch.uint8 \(3, 8, 8\)"),
        (noise(2, channels=2), r"images must be uint8 of shape \(N, 1 or 3, H, W\)"),
        (noise(2, channels=1), "images have 1 channels, but views.mean has 3"),
    ],
)
def test_bad_batches(make: Callable[[Tensor, Views], Any], images: Tensor, line: str) -> None:
    with pytest.raises(ValueError, match=line) as error:
        make(images, Views())
    assert "\n" not in str(error.value)


# --- Draws ---------------------------------------------------------------------------------------------


def test_seed_decides() -> None:
    images = noise(4, size=32)
    torch.manual_seed(1)
    first = make_views(images, Views())
    torch.manual_seed(1)
    again = make_views(images, Views())
    other = make_views(images, Views())
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_each_image_of_each_view_has_its_own_draw() -> None:
    images = noise(1, size=32).expand(16, -1, -1, -1)
    for made in make_views(images, Views()):
        flat = made.flatten(0, 1).flatten(1)
        assert len(flat.unique(dim=0)) == len(flat)


def test_nothing_random_gives_the_resized_image() -> None:
    images = noise(3, size=13)
    config = plain(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    expected = reference.resize(images.float() / 255, [8, 8], antialias=True)
    expected = reference.normalize(expected, list(config.mean), list(config.std))
    torch.testing.assert_close(eval_view(images, config), expected, rtol=0, atol=1e-5)
    for view in all_views(images, config):
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_parts_of_a_batch_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images are resampled one at a time, in whole grey levels."""
    images, made = noise(5, size=40), []
    config = Views(global_size=48, local_size=11, blur_sigma=(5, 20), jitter=0, std=(1, 1, 1))
    for limit, pixels in (("PART", 5 * 40 * 40), ("PART", 2 * 40 * 40), ("LARGE", 1)):
        monkeypatch.setattr(views, limit, pixels)
        torch.manual_seed(2)
        made.append(make_views(images, config))
    for other, tolerance in zip(made[1:], (1e-5, 1.01 / 255), strict=True):
        for a, b in zip(made[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("large", [views.LARGE, 1])
def test_threads_do_not_show(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(views, "LARGE", large)
    images, made = noise(9, size=40), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        torch.manual_seed(2)
        with torch.inference_mode(threads == 4):
            made.append(all_views(images, Views(local_size=32, blur_sigma=(5, 20))))
    torch.set_num_threads(1)
    assert made[0].equal(made[1])
    assert made[0].equal(made[2])


def _share(made: Tensor, unchanged: Tensor) -> Tensor:
    """In how many images each view was changed: (V, N, ...) -> (V,)."""
    return ((made - unchanged).abs().flatten(2).amax(-1) > 1e-4).float().mean(1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"flip": 0.3}, (0.3,) * 4),
        ({"jitter": 0.8}, (0.8,) * 4),
        ({"grey": 0.2}, (0.2,) * 4),
        ({"blur": (0.9, 0.1, 0.5), "blur_sigma": (20, 60)}, (0.9, 0.1, 0.5, 0.5)),
        ({"solarize": (0.0, 0.2, 0.6)}, (0.0, 0.2, 0.6, 0.6)),
        ({"flip": 1, "blur": (1, 0, 1), "blur_sigma": (20, 60)}, (1.0,) * 4),
    ],
)
def test_how_often(changes: dict[str, Any], expected: tuple[float, ...]) -> None:
    n = 1000
    images = noise(n)
    seen = _share(all_views(images, plain(**changes)), eval_view(images, plain()))
    for share, p in zip(seen.tolist(), expected, strict=True):
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / n)


# --- Space ---------------------------------------------------------------------------------------------


@st.composite
def crops(draw: st.DrawFn) -> dict[str, Any]:
    height, width = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    box_height, box_width = draw(st.integers(1, height)), draw(st.integers(1, width))
    return {
        "canvas": (height, width),
        "start": (draw(st.integers(0, height - box_height)), draw(st.integers(0, width - box_width))),
        "length": (box_height, box_width),
        "size": draw(st.integers(1, 40)),
        "flip": draw(st.booleans()),
    }


@settings(max_examples=100, deadline=None)
@given(crops())
def test_resampling_is_torchvisions(crop: dict[str, Any]) -> None:
    images = torch.rand(2, 3, *crop["canvas"])
    start, length = (torch.tensor(crop[name]).expand(1, 2, 2) for name in ("start", "length"))
    matrices = views.resampling_matrices(
        start, length, torch.tensor([[False, crop["flip"]]]), crop["canvas"], crop["size"]
    )
    expected = reference.resized_crop(
        images, *crop["start"], *crop["length"], [crop["size"]] * 2, antialias=True
    )
    if crop["flip"]:
        expected = torch.stack([expected[0], reference.hflip(expected[1])])
    made = views.resample(images, matrices)[0].permute(0, 3, 1, 2)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 3), st.integers(18, 40))
def test_blur_is_torchvisions(sigma: float, size: int) -> None:
    image, radius = torch.rand(3, size, size), 17
    matrices = torch.eye(size).repeat(1, 2, 2, 1, 1)
    views.blur_(matrices, torch.tensor([[0.0, sigma]]), radius)
    for (rows, columns), expected in zip(
        matrices[0],
        (image, reference.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)),
        strict=True,
    ):
        torch.testing.assert_close(rows @ image @ columns.mT, expected, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(crops(), st.floats(0.1, 3), st.sampled_from([1, 3]))
def test_views_of_a_large_image_are_those_of_the_matrices(
    crop: dict[str, Any], sigma: float, channels: int
) -> None:
    image = noise(1, channels=channels, size=40)[0, :, : crop["canvas"][0], : crop["canvas"][1]]
    start, length = (torch.tensor(crop[name]).expand(2, 2) for name in ("start", "length"))
    flip, widths = torch.tensor([False, crop["flip"]]), torch.tensor([0.0, sigma])
    made = cut_views(image, start, length, flip, widths, crop["size"])
    matrices = views.resampling_matrices(
        start[:, None], length[:, None], flip[:, None], crop["canvas"], crop["size"]
    )
    if radius := min(15, crop["size"] - 1):
        views.blur_(matrices, widths[:, None], radius)
    expected = views.resample(image[None].float(), matrices)[:, 0]
    torch.testing.assert_close(made, expected, rtol=0, atol=1.01)


def test_blur_is_scaled_to_the_view() -> None:
    """Two pixels of 224 are half a pixel of 56."""
    images = noise(2, size=56)
    config = plain(global_size=56, local_size=56, blur=(1, 0, 0), blur_sigma=(2, 2))
    made, unchanged = make_views(images, config)[0]
    expected = reference.gaussian_blur(images.float() / 255, [11, 11], [0.5, 0.5])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(unchanged, images.float() / 255, rtol=0, atol=1e-5)


def test_flip_mirrors() -> None:
    images = noise(3)
    torch.testing.assert_close(
        all_views(images, plain(flip=1)),
        reference.hflip(images.float() / 255).expand(4, -1, -1, -1, -1),
        rtol=0,
        atol=1e-5,
    )


Boxes = tuple[tuple[int, int], tuple[float, float], tuple[float, float]]


def _our_boxes(n: int, canvas: tuple[int, int], scale: Any, ratio: Any) -> Tensor:
    start, length = draws.crop_boxes((1, n), canvas, scale, ratio, torch.device("cpu"))
    return torch.cat([start, length], -1)[0]


def _their_boxes(n: int, canvas: tuple[int, int], scale: Any, ratio: Any) -> Tensor:
    image, crop = torch.empty(1, *canvas), v2.RandomResizedCrop(1, scale, ratio)
    drawn = (crop.make_params([image]) for _ in range(n))
    return torch.tensor([[box[name] for name in ("top", "left", "height", "width")] for box in drawn]).float()


BOX_STATISTICS: list[Callable[[Tensor], Tensor]] = [
    lambda boxes: boxes[:, 2] * boxes[:, 3],
    lambda boxes: boxes[:, 3] / boxes[:, 2],
    lambda boxes: boxes[:, 0],
    lambda boxes: boxes[:, 1],
]


@pytest.mark.parametrize(
    "boxes",
    [
        ((64, 64), (0.4, 1.0), (3 / 4, 4 / 3)),
        ((64, 64), (0.05, 0.4), (3 / 4, 4 / 3)),
        ((40, 90), (0.2, 0.9), (0.5, 1.5)),
    ],
)
def test_crops_are_distributed_as_torchvisions(boxes: Boxes) -> None:
    ours, theirs = _our_boxes(2000, *boxes), _their_boxes(2000, *boxes)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor(boxes[0])).all()
    for statistic in BOX_STATISTICS:
        assert ks_2samp(statistic(ours), statistic(theirs)).pvalue > 0.01


def test_the_comparison_of_crops_has_power() -> None:
    theirs = _their_boxes(2000, (64, 64), (0.4, 1.0), (3 / 4, 4 / 3))
    other_scale = _our_boxes(2000, (64, 64), (0.3, 1.0), (3 / 4, 4 / 3))
    other_ratio = _our_boxes(2000, (64, 64), (0.4, 1.0), (0.65, 1.5))
    assert ks_2samp(BOX_STATISTICS[0](theirs), BOX_STATISTICS[0](other_scale)).pvalue < 1e-4
    assert ks_2samp(BOX_STATISTICS[1](theirs), BOX_STATISTICS[1](other_ratio)).pvalue < 1e-4


@pytest.mark.parametrize("canvas", [(10, 90), (90, 10), (32, 32)])
def test_fallback_of_the_crop(canvas: tuple[int, int]) -> None:
    """No box of this area fits, so the largest central one of an allowed aspect is taken."""
    scale, ratio = ((1.0, 1.0), (3 / 4, 4 / 3)) if canvas[0] != canvas[1] else ((1.0, 1.0), (0.5, 0.6))
    ours, theirs = _our_boxes(3, canvas, scale, ratio), _their_boxes(3, canvas, scale, ratio)
    assert torch.equal(ours, theirs)


# --- Colour --------------------------------------------------------------------------------------------


def test_space_leaves_a_constant_image_alone() -> None:
    config = Views(**{**NOTHING, "flip": 0.5, "blur": (1, 1, 1), "blur_sigma": (5, 40)})
    colour = torch.tensor([200, 100, 30]) / 255
    for made in make_views(constant(200, 100, 30, size=24), config):
        torch.testing.assert_close(made, colour[:, None, None].expand_as(made), rtol=0, atol=1e-5)


def test_brightness_scales_and_clamps() -> None:
    only = {"jitter": 1, "contrast": 0, "saturation": 0, "hue": 0}
    made = all_views(constant(220, 110, 55, n=200), plain(**only, brightness=0.4))
    factor = made[:, :, 2] * 255 / 55
    assert 0.6 <= factor.min() < 0.62
    assert 1.38 < factor.max() <= 1.4 + 1e-5
    torch.testing.assert_close(made[:, :, 0], (factor * 220 / 255).clamp(max=1), rtol=0, atol=1e-5)


def test_contrast_leaves_a_constant_grey_alone() -> None:
    only = {"jitter": 1, "brightness": 0, "contrast": 0.9, "saturation": 0.9, "hue": 0.5}
    made = all_views(constant(100, 100, 100), plain(**only))
    torch.testing.assert_close(made, torch.full_like(made, 100 / 255), rtol=0, atol=1e-5)


def test_grey_makes_channels_equal() -> None:
    images = noise(5)
    made = all_views(images, plain(grey=1))
    expected = reference.rgb_to_grayscale(images.float() / 255, num_output_channels=3)
    torch.testing.assert_close(
        made, expected.expand_as(made), rtol=0, atol=2e-4
    )  # their weights sum to 0.9999
    assert (made.amax(2) - made.amin(2)).max() < 1e-6


def test_solarize_inverts_what_is_above_one_half() -> None:
    images = noise(6)
    config = plain(solarize=(0, 1, 1), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    scaled = images.float() / 255
    for made, image in zip(
        all_views(images, config), [scaled, *[reference.solarize(scaled, 0.5)] * 3], strict=True
    ):
        expected = reference.normalize(image, list(config.mean), list(config.std))
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_one_channel_has_brightness_and_contrast_only() -> None:
    grey = {"mean": (0,), "std": (1,), "jitter": 1, "saturation": 0.9, "hue": 0.5, "grey": 1}
    images = noise(20, channels=1, low=90, high=160)
    unchanged = all_views(images, plain(**grey, brightness=0, contrast=0))
    torch.testing.assert_close(unchanged, (images.float() / 255).expand_as(unchanged), rtol=0, atol=1e-5)
    scaled = all_views(images, plain(**grey, brightness=0.4, contrast=0))
    assert (scaled / unchanged).flatten(2).std(-1).max() < 1e-5
    spread = all_views(images, plain(**grey, brightness=0, contrast=0.4))
    torch.testing.assert_close(spread.mean((2, 3, 4)), unchanged.mean((2, 3, 4)), rtol=0, atol=1e-5)
    assert spread.std((2, 3, 4)).std() > 0.01


def test_hue_is_torchvisions_for_thirds_of_the_circle() -> None:
    image = torch.rand(3, 5, 5)
    for turn in (-1 / 3, 0.0, 1 / 3):
        rotation = draws.hue_rotation(torch.tensor([[turn]]))[0, 0]
        made = (rotation @ image.flatten(1)).view_as(image)
        torch.testing.assert_close(made, reference.adjust_hue(image, turn), rtol=0, atol=1e-5)


@pytest.mark.parametrize("turn", [0.02, 0.1, 0.5])
def test_hue_turns_as_far_as_torchvisions_between_thirds(turn: float) -> None:
    colours = torch.rand(500, 3, 1, 1) * 0.5 + 0.25
    colours = colours[(colours.amax(1) - colours.amin(1))[:, 0, 0] > 0.1]  # grey has no hue
    turned = torch.einsum("ij,njyx->niyx", draws.hue_rotation(torch.tensor([[turn]]))[0, 0], colours)
    error = (_hue(turned) - _hue(colours) - turn + 0.5) % 1 - 0.5
    assert error.abs().max() * 360 < 2.3
    torch.testing.assert_close(turned.mean(1), colours.mean(1))
    torch.testing.assert_close(turned.std(1), colours.std(1))


def _our_jitter(images: Tensor, limits: dict[str, float]) -> Tensor:
    return make_views(images, plain(jitter=1, **limits, local_views=0))[0][0]


def _their_jitter(images: Tensor, limits: dict[str, float]) -> Tensor:
    jitter = v2.ColorJitter(**limits)
    return torch.stack([jitter(image) for image in images.float() / 255])


def _hue(colour: Tensor) -> Tensor:
    return torch.tensor([colorsys.rgb_to_hsv(*pixel)[0] for pixel in colour.mean((2, 3)).tolist()])


JITTER: dict[str, tuple[float, float, Callable[[Tensor], Tensor]]] = {
    "brightness": (0.4, 0.3, lambda x: x.mean((1, 2, 3))),
    "contrast": (0.4, 0.3, lambda x: x.mean(1).std((1, 2))),
    "saturation": (0.2, 0.15, lambda x: (x.amax(1) - x.amin(1)).mean((1, 2))),
    "hue": (0.1, 0.08, _hue),
}
NONE = dict.fromkeys(JITTER, 0.0)


def _coloured(n: int) -> Tensor:
    """The same green picture n times, of middle values, since torchvision clamps after each part."""
    picture = noise(1, channels=1, low=100, high=140) + torch.tensor(
        [[[0]], [[30]], [[10]]], dtype=torch.uint8
    )
    return picture.expand(n, -1, -1, -1)


@pytest.mark.parametrize("name", JITTER)
def test_each_part_of_the_jitter_is_distributed_as_torchvisions(name: str) -> None:
    limit, wrong, statistic = JITTER[name]
    images = _coloured(1000)
    theirs = statistic(_their_jitter(images, {**NONE, name: limit}))
    assert ks_2samp(statistic(_our_jitter(images, {**NONE, name: limit})), theirs).pvalue > 0.01
    assert ks_2samp(statistic(_our_jitter(images, {**NONE, name: wrong})), theirs).pvalue < 1e-3


def test_jitter_without_hue_is_distributed_as_torchvisions() -> None:
    limits = {name: limit for name, (limit, _, _) in JITTER.items()} | {"hue": 0.0}
    images = _coloured(1000)
    ours, theirs = _our_jitter(images, limits), _their_jitter(images, limits)
    for name in ("brightness", "contrast", "saturation"):
        statistic = JITTER[name][2]
        assert ks_2samp(statistic(ours), statistic(theirs)).pvalue > 0.01


def test_whole_jitter_is_distributed_nearly_as_torchvisions() -> None:
    """Hue is only near HSV's: their distributions are up to 0.05 apart, plus the noise of the samples."""
    limits = {name: limit for name, (limit, _, _) in JITTER.items()}
    images = _coloured(1500)
    ours, theirs = _our_jitter(images, limits), _their_jitter(images, limits)
    for _, _, statistic in JITTER.values():
        assert ks_2samp(statistic(ours), statistic(theirs)).statistic < 0.1
    wrong = _our_jitter(images, {**limits, "hue": 0.15})
    assert ks_2samp(_hue(wrong), _hue(theirs)).statistic > 0.1


def test_jitter_is_its_parts_in_a_random_order() -> None:
    """Recovers the strengths from each map and composes the parts in all orders: one of them is the map.

    A part maps a colour x and the mean colour m alike, (x, m) -> (P x + Q m, (P + Q) m).
    """
    config = Views(jitter=1, grey=0, brightness=0, contrast=0.5, saturation=0.6, hue=0.2)
    n = 200
    maps = [x[0].double() for x in draws.colour_maps((1, n), 3, config, torch.device("cpu"))]
    luma, eye, zero = (
        torch.tensor(draws.GREY).double().expand(3, 3),
        torch.eye(3).double(),
        torch.zeros(3, 3).double(),
    )
    seen: dict[tuple[bool, bool], int] = {}
    for linear, level in zip(*maps, strict=True):
        contrast = linear.sum(1).mean()  # of all rows: the other parts leave white alone
        saturation = (linear.det() / contrast**3).sqrt()
        cosine = (linear.trace() / contrast - 1) / (2 * saturation)
        distances = {}
        for order, sign in itertools.product(itertools.permutations("hsc"), (-1, 1)):
            turn = sign * cosine.clamp(-1, 1).acos() / (2 * math.pi)
            parts = {
                "h": (draws.hue_rotation(turn[None, None])[0, 0].double(), zero),
                "s": (saturation * eye + (1 - saturation) * luma, zero),
                "c": (contrast * eye, (1 - contrast) * luma),
            }
            a, b = eye, zero
            for part in order:
                p, q = parts[part]
                a, b = p @ a, p @ b + q @ (a + b)
            distances[order, sign] = max((a - linear).abs().max(), (b - level).abs().max()).item()
        order = min(distances, key=distances.__getitem__)[0]
        assert min(distances.values()) < 1e-4
        relation = (order.index("h") < order.index("s"), order.index("h") < order.index("c"))
        seen[relation] = seen.get(relation, 0) + 1
    # Of six orders hue is first in two, last in two, and between in the others.
    for relation, p in {(True, True): 1 / 3, (False, False): 1 / 3, (True, False): 1 / 6}.items():
        assert abs(seen[relation] / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_no_images_have_no_plain_views() -> None:
    """Of a batch in which nothing could be read."""
    for size in (32, 40):
        assert eval_view(torch.zeros(0, 3, size, size, dtype=torch.uint8), Views()).shape == (0, 3, 32, 32)

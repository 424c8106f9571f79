"""Views are compared with torchvision's transforms, which work on one image at a time."""

import colorsys
import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import v2

from stochcon import views
from stochcon.config import Views
from stochcon.views import eval_view, make_views

NOTHING: dict[str, Any] = {"flip": 0, "jitter": 0, "grey": 0, "blur": (0, 0, 0), "solarize": (0, 0, 0)}
NOTHING |= {"mean": (0, 0, 0), "std": (1, 1, 1)}
WHOLE: dict[str, Any] = {"global_scale": (1, 1), "local_scale": (1, 1), "ratio": (1, 1)}
BLUR: dict[str, Any] = {"blur": (1, 0, 0), "blur_sigma": (2, 2), "global_size": 56, "local_size": 56}
RATIO = (3 / 4, 4 / 3)
AXIS = st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(0, 20))  # before, in and after a crop


@pytest.fixture(autouse=True)
def _same_draws_in_every_run() -> None:
    torch.manual_seed(0)


def plain(**changes: Any) -> Views:
    """Make two views of each size, of whole images, in which nothing happens but the changes."""
    return Views(**{**NOTHING, **WHOLE, "global_size": 8, "local_size": 8, "local_views": 2, **changes})


def noise(n: int, *, channels: int = 3, size: int = 8, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(low, high, (n, channels, size, size), dtype=torch.uint8)


def all_views(images: Tensor, config: Views) -> Tensor:
    return torch.cat(make_views(images, config))


@pytest.mark.parametrize(("channels", "n", "canvas"), [(3, 8, (32, 32)), (1, 3, (20, 31)), (3, 0, (9, 8))])
def test_shapes_and_memory(channels: int, n: int, canvas: tuple[int, int]) -> None:
    config = Views(local_views=n, mean=(0.5,) * channels, std=(0.2,) * channels)
    images = torch.randint(256, (5, channels, *canvas), dtype=torch.uint8)
    made = make_views(images, config)
    assert made[0].shape == (2, 5, channels, 32, 32) and made[1].shape == (n, 5, channels, 16, 16)
    assert all(eval_view(images[:k], config).shape == (k, channels, 32, 32) for k in (0, 5))
    for some in (*made, eval_view(images, config)[None]):
        assert some.dtype == torch.float32 and some.isfinite().all()
        assert some.permute(0, 1, 3, 4, 2).is_contiguous()  # a batch of views is channels_last


@pytest.mark.parametrize("make", [make_views, eval_view])
@pytest.mark.parametrize(
    ("images", "line"),
    [
        (torch.zeros(2, 3, 8, 8), r"must be uint8 .* not torch.float32 \(2, 3, 8, 8\)$"),
        (noise(1)[0], r"must be uint8 .* not torch.uint8 \(3, 8, 8\)$"),
        (noise(2, channels=2), r"must be uint8 of shape \(N, 1 or 3, H, W\)"),
        (noise(2, channels=1), "1 channels, but views.mean has 3$"),
    ],
)
def test_bad_batches(make: Any, images: Tensor, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make(images, Views())


def test_views_depend_on_nothing_but_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    images, made = noise(3, size=40).repeat(3, 1, 1, 1), []
    for seed, threads, part in ((1, 1, 9), (1, 2, 9), (1, 4, 9), (1, 1, 2), (2, 1, 9)):
        monkeypatch.setattr(views, "PART", part * 40 * 40)
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        with torch.inference_mode(threads == 4):
            made.append(all_views(images, Views(local_size=32, blur_sigma=(5, 20))))
    torch.set_num_threads(1)
    assert made[1].equal(made[0]) and made[2].equal(made[0]) and not made[4].equal(made[0])
    assert_close(made[3], made[0], rtol=0, atol=2e-5)
    assert len(made[0].flatten(0, 1).unique(dim=0)) == 10 * 9  # each view of each image has its own draw


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"flip": 0.3}, (0.3,) * 4),
        ({"jitter": 0.8}, (0.8,) * 4),
        ({"grey": 0.2}, (0.2,) * 4),
        ({"blur": (0.9, 0.1, 0.5), "blur_sigma": (20, 60)}, (0.9, 0.1, 0.5, 0.5)),
        ({"solarize": (0.0, 0.2, 0.6)}, (0.0, 0.2, 0.6, 0.6)),
    ],
)
def test_how_often_each_view_changes(changes: dict[str, Any], expected: tuple[float, ...]) -> None:
    images = noise(1000)
    change = (all_views(images, plain(**changes)) - eval_view(images, plain())).abs().flatten(2).amax(-1)
    for share, p in zip((change > 1e-4).float().mean(1).tolist(), expected, strict=True):
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 1000)


@pytest.mark.parametrize(
    ("changes", "changed", "function", "tolerance"),
    [
        ({"flip": 1}, (1, 1, 1, 1), reference.hflip, 1e-5),
        ({"grey": 1}, (1, 1, 1, 1), lambda x: reference.rgb_to_grayscale(x, 3), 2e-4),  # 0.9999 of ours
        ({"solarize": (0, 1, 1)}, (0, 1, 1, 1), lambda x: reference.solarize(x, 0.5), 1e-5),
        (BLUR, (1, 0, 0, 0), lambda x: reference.gaussian_blur(x, [11, 11], [0.5, 0.5]), 1e-4),  # 56 / 224
    ],
)
def test_what_is_sure_to_happen(changes: Any, changed: Any, function: Any, tolerance: float) -> None:
    images, config = noise(3, size=13), plain(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), **changes)
    mean, std = (torch.tensor(x)[:, None, None] for x in (config.mean, config.std))
    whole = reference.resize(images.float() / 255, [config.global_size] * 2, antialias=True)
    assert_close(eval_view(images, config), (whole - mean) / std, rtol=0, atol=1e-5)
    made = all_views(images, config) * std + mean
    expected = torch.stack([function(whole) if this else whole for this in changed])
    assert_close(made, expected, rtol=0, atol=tolerance)
    assert "grey" not in changes or (made.amax(2) - made.amin(2)).max() < 1e-6


@settings(max_examples=100)
@given(AXIS, AXIS, st.integers(1, 40), st.booleans())
def test_resampling_is_torchvisions(y: Any, x: Any, size: int, flip: bool) -> None:
    canvas = sum(y), sum(x)
    images, start, length = torch.rand(2, 3, *canvas), (y[0], x[0]), (y[1], x[1])
    top_left, sides = (torch.tensor(corner).expand(1, 2, 2) for corner in (start, length))
    matrices = views.resampling_matrices(top_left, sides, torch.tensor([[False, flip]]), canvas, size)
    first, second = reference.resized_crop(images, *start, *length, [size, size], antialias=True)
    expected = torch.stack([first, reference.hflip(second) if flip else second])
    assert_close(views.resample(images, matrices)[0].permute(0, 3, 1, 2), expected, rtol=0, atol=1e-5)


@settings(max_examples=40)
@given(st.floats(0.2, 3), st.integers(18, 40))
def test_blur_is_torchvisions(sigma: float, size: int) -> None:
    image, matrices = torch.rand(3, size, size), torch.eye(size).repeat(1, 2, 2, 1, 1)
    views.blur_(matrices, torch.tensor([[0.0, sigma]]), radius=17)
    rows, columns = matrices[0].unbind(1)
    expected = torch.stack([image, reference.gaussian_blur(image, [35, 35], [sigma, sigma])])
    assert_close(rows[:, None] @ image @ columns[:, None].mT, expected, rtol=0, atol=1e-5)


def apart(x: Tensor, y: Tensor) -> float:
    return ks_2samp(x, y).statistic


def boxes(n: int, canvas: tuple[int, int], scale: Any, ratio: Any) -> tuple[Tensor, Tensor]:
    """Draw top, left, height and width of n crops, (n, 4), as we do and as torchvision does."""
    crop = v2.RandomResizedCrop(1, scale, ratio)
    drawn = (crop.make_params([torch.empty(1, *canvas)]) for _ in range(n))
    theirs = torch.tensor([[box[name] for name in ("top", "left", "height", "width")] for box in drawn])
    return torch.cat(views.crop_boxes((1, n), canvas, scale, ratio, torch.device("cpu")), -1)[0], theirs.float()


@pytest.mark.parametrize(
    ("canvas", "scale", "ratio"),
    [((64, 64), (0.4, 1), RATIO), ((64, 64), (0.05, 0.4), RATIO), ((40, 90), (0.2, 0.9), (0.5, 1.5))],
)
def test_crops_are_distributed_as_torchvisions(canvas: Any, scale: Any, ratio: Any) -> None:
    """Two samples of 2000 are 0.051 apart by chance in one case of 100."""
    ours, theirs = boxes(2000, canvas, scale, ratio)
    wrong, _ = boxes(2000, canvas, (0.6 * scale[0], 0.9 * scale[1]), (0.85 * ratio[0], 1.15 * ratio[1]))
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= torch.tensor(canvas)).all()
    for shown in (lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 3] / box[:, 2]):
        assert apart(shown(ours), shown(theirs)) < 0.05 < 0.07 < apart(shown(wrong), shown(theirs))
    assert max(apart(ours[:, i], theirs[:, i]) for i in (0, 1)) < 0.05


@pytest.mark.parametrize(("canvas", "ratio"), [((10, 90), RATIO), ((90, 10), RATIO), ((32, 32), (0.5, 0.6))])
def test_where_no_box_fits_the_largest_central_one_is_taken(canvas: tuple[int, int], ratio: Any) -> None:
    ours, theirs = boxes(3, canvas, (1, 1), ratio)
    assert ours.equal(theirs)


def test_brightness_scales_and_clamps() -> None:
    images = torch.tensor([220, 110, 55], dtype=torch.uint8)[:, None, None].expand(200, 3, 8, 8)
    made = all_views(images, plain(jitter=1, brightness=0.4, contrast=0, saturation=0, hue=0))
    factor = made[:, :, 2] * 255 / 55
    assert 0.6 <= factor.min() < 0.62 and 1.38 < factor.max() <= 1.4 + 1e-5
    assert_close(made[:, :, 0], (factor * 220 / 255).clamp(max=1), rtol=0, atol=1e-5)


def test_one_channel_has_brightness_and_contrast_only() -> None:
    one = {"mean": (0,), "std": (1,), "jitter": 1, "saturation": 0.9, "hue": 0.5, "grey": 1}
    images = noise(20, channels=1, low=90, high=160)
    unchanged = all_views(images, plain(**one, brightness=0, contrast=0))
    assert_close(unchanged, (images.float() / 255).expand_as(unchanged), rtol=0, atol=1e-5)
    scaled = all_views(images, plain(**one, brightness=0.4, contrast=0))
    assert (scaled / unchanged).flatten(2).std(-1).max() < 1e-5
    spread = all_views(images, plain(**one, brightness=0, contrast=0.4))
    assert_close(spread.mean((2, 3, 4)), unchanged.mean((2, 3, 4)), rtol=0, atol=1e-5)
    assert spread.std((2, 3, 4)).std() > 0.01


def hue(colours: Tensor) -> Tensor:
    return torch.tensor([colorsys.rgb_to_hsv(*pixel)[0] for pixel in colours.mean((2, 3)).tolist()])


@pytest.mark.parametrize(
    ("turn", "tolerance"), [(-1 / 3, 1e-5), (0.0, 1e-5), (1 / 3, 1e-5), (0.02, 0.05), (0.1, 0.15), (0.5, 0.2)]
)
def test_hue_is_torchvisions_by_thirds_and_near_it_between(turn: float, tolerance: float) -> None:
    colours = torch.rand(500, 3, 1, 1) * 0.5 + 0.25
    colours = colours[(colours.amax(1) - colours.amin(1))[:, 0, 0] > 0.1]  # grey has no hue
    made = torch.einsum("ij,njyx->niyx", views.hue_rotation(torch.tensor([[turn]]))[0, 0], colours)
    assert_close(made, reference.adjust_hue(colours, turn), rtol=0, atol=tolerance)
    assert ((hue(made) - hue(colours) - turn + 0.5) % 1 - 0.5).abs().max() * 360 < 2.3
    assert_close(made.mean(1), colours.mean(1))
    assert_close(made.std(1), colours.std(1))


PARTS: dict[str, tuple[float, float, Any]] = {
    "brightness": (0.4, 0.3, lambda x: x.mean((1, 2, 3))),
    "contrast": (0.4, 0.3, lambda x: x.mean(1).std((1, 2))),
    "saturation": (0.2, 0.15, lambda x: (x.amax(1) - x.amin(1)).mean((1, 2))),
    "hue": (0.1, 0.15, hue),
}
"""Each part's limit, a wrong one that must be noticed, and what the part changes in a picture."""


@pytest.mark.parametrize(
    ("names", "limit"), [*(([name], 0.06) for name in PARTS), ([*PARTS][:3], 0.06), ([*PARTS], 0.08)], ids=str
)
def test_jitter_is_distributed_as_torchvisions(names: list[str], limit: float) -> None:
    """Our hue is only near HSV's, and moves the distributions by up to 0.05."""
    green = torch.tensor([[[0]], [[30]], [[10]]], dtype=torch.uint8)
    # Values are in the middle, since torchvision clamps after each part.
    images = (noise(1, channels=1, low=100, high=140) + green).expand(2000, -1, -1, -1)
    limits, wrong = ({name: PARTS[name][i] for name in names} for i in (0, 1))
    off = dict.fromkeys(PARTS, 0.0) | {"jitter": 1, "local_views": 0}
    ours, bad = (make_views(images, plain(**off | some))[0][0] for some in (limits, wrong))
    theirs = torch.stack([v2.ColorJitter(**limits)(image) for image in images.float() / 255])
    for name in names:
        right, other = (apart(PARTS[name][2](x), PARTS[name][2](theirs)) for x in (ours, bad))
        assert right < limit < other


def affine(p: Tensor, q: Tensor) -> Tensor:
    """Return the matrix (6, 6) of (x, m) -> (P x + Q m, (P + Q) m), for a colour x and the mean colour m."""
    return torch.cat([torch.cat([p, q], 1), torch.cat([torch.zeros_like(p), p + q], 1)])


def test_jitter_is_its_parts_in_a_random_order() -> None:
    """The strengths are read off each map, and the parts composed in all orders: one of them is the map."""
    config = Views(jitter=1, grey=0, brightness=0, contrast=0.5, saturation=0.6, hue=0.2)
    maps = [x[0].double() for x in views.colour_maps((1, 200), 3, config, torch.device("cpu"))]
    luma, eye = torch.tensor(views.GREY).double().expand(3, 3), torch.eye(3).double()
    seen: Counter[tuple[bool, bool]] = Counter()
    for linear, level in zip(*maps, strict=True):
        contrast = linear.sum(1).mean()  # of all rows: the other parts leave white alone
        saturation = (linear.det() / contrast**3).sqrt()
        turn = ((linear.trace() / contrast - 1) / (2 * saturation)).clamp(-1, 1).acos() / (2 * math.pi)
        distances = []
        for order, sign in itertools.product(itertools.permutations("hsc"), (-1, 1)):
            parts = {
                "h": affine(views.hue_rotation(sign * turn[None, None])[0, 0], 0 * eye),
                "s": affine(saturation * eye + (1 - saturation) * luma, 0 * eye),
                "c": affine(contrast * eye, (1 - contrast) * luma),
            }
            first, second, third = (parts[name] for name in order)
            whole = (third @ second @ first)[:3] - torch.cat([linear, level.expand(3, 3)], 1)
            distances.append((whole.abs().max().item(), order))
        distance, order = min(distances)
        assert distance < 1e-4
        seen[order.index("h") < order.index("s"), order.index("h") < order.index("c")] += 1
    # Hue is first in two of the six orders, last in two, and between the others in two.
    for relation, p in {(True, True): 1 / 3, (False, False): 1 / 3, (True, False): 1 / 6}.items():
        assert abs(seen[relation] / 200 - p) < 4 * math.sqrt(p * (1 - p) / 200)

"""Monitors of a training, which has no score of its own: is h worth anything, and does every bit say something?

At a few moments a fixed few images pass through the network. Evaluation stands above training and scores a run with
care; here an image is compared with nothing but the other images of the few.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stochcon.config import Config
from stochcon.data.images import Source, read
from stochcon.data.sets import listed
from stochcon.method.model import StochCon
from stochcon.train.loop import Schedule, derive_seed
from stochcon.views import eval_view, make_views

MOMENTS = 15  # enough for a curve
FEWEST, MOST = 100, 1000  # images; fewer say too little, so a training of a second may spend more than SHARE
SHARE = 0.01  # of the work of the network in training; what is not the network's takes as much again
NEIGHBOURS = 10
SAME = 0.99  # share of the images on which two bits agree, or differ, that say the same
BATCH = 128
IN_SHORT = {"knn.h": "kNN", "retrieval.h": "self", "rank": "rank", "dead": "dead"}  # for the progress bar


class Watched(NamedTuple):
    """The N images to look at, uint8 (N, C, S, S), and their classes (N,), if they are known and differ."""

    pixels: Tensor
    labels: Tensor | None
    alike: float
    """The `self_retrieval` of the pixels of random views, for at most BATCH images."""


def interval(schedule: Schedule) -> int:
    """Compute the number of steps between two moments, at each of which the log has a line."""
    return schedule.log_every * math.ceil(schedule.steps / MOMENTS / schedule.log_every)


def load_watched(config: Config, schedule: Schedule, given: Sequence[Source] | None = None) -> Watched:
    """Read the images to look at: so few of those given, or else of the validation split, that it costs little.

    Training images take the place of a validation split that has fewer than FEWEST.
    """
    sources: Sequence[Source] = given or []
    with suppress(ValueError):  # there are none
        sources = sources or listed(config.data, "validation")[1]
    if not given and len(sources) < FEWEST:
        sources = listed(config.data, "train")[1]
    views = config.views
    work = 2 + views.local_views * (views.local_size / views.global_size) ** 2  # of an image, in global views
    trained = 3 * work * schedule.batch_size * interval(schedule)  # back is twice the work of forward
    affordable = int(SHARE * trained) // (2 if sources[0].label is None else 1)
    # In a random order, since bits are often equally near, and a search takes the first.
    chosen = torch.randperm(len(sources), generator=torch.Generator().manual_seed(0))
    some = [sources[i] for i in chosen[: min(MOST, max(FEWEST, affordable))].tolist()]
    images = read(some, (), config.data.size, config.data.channels)
    labels = images.labels if images.labels is not None and len(images.labels.unique()) > 1 else None
    random = _two_views(images.pixels[:BATCH], config).flatten(2)
    return Watched(images.pixels, labels, self_retrieval(*F.normalize(random - random[0].mean(0), dim=-1)))


def _two_views(pixels: Tensor, config: Config) -> Tensor:
    """Make two random global views (2, N, C, G, G), at every moment the same."""
    with torch.random.fork_rng([pixels.device] if pixels.is_cuda else []):
        torch.manual_seed(derive_seed(config.seed, *b"monitor"))
        return make_views(pixels, config.views.model_copy(update={"local_views": 0}))[0]


@torch.inference_mode()
def look(model: StochCon, watched: Watched, config: Config) -> dict[str, float]:
    """Look at a model in training, which is left as it was; at nothing if its h is not finite.

    Returns `rank`, the RankMe of h; `knn.h` where there are labels and otherwise `retrieval.h`, in per cent; and
    `retrieval.pixels`. A latent of bits adds the same of `bits`, their number, how many are `dead` and `doubled`, and
    `uncertainty`, the mean probability that a sample flips a bit.
    """
    weight, training, labels, parts = next(model.parameters()), model.training, watched.labels, []
    model.eval()
    for pixels in watched.pixels.to(weight.device).split(BATCH):
        views = _two_views(pixels, config) if labels is None else eval_view(pixels, config.views)[None]
        # `forward`, since a network that is compiled would be compiled once more for this.
        parts.append(model.backbone.forward(views.flatten(0, 1).to(weight)).unflatten(0, views.shape[:2]))
    h = torch.cat(parts, dim=1)
    phi = model.phi(h)
    model.train(training)
    if not h.isfinite().all():
        return {}
    values = {"rank": rank_me(h[0]), "retrieval.pixels": watched.alike}
    codes = {"h": F.normalize(h.float() - h[0].float().mean(0), dim=-1)}
    if model.latent.binary:
        bits, p = model.latent.logits(phi) > 0, model.latent.probabilities(phi[0])
        values |= count_faults(bits[0]) | {"uncertainty": torch.minimum(p, 1 - p).mean().item()}
        codes["bits"] = 2.0 * bits - 1
    for name, code in codes.items():
        if labels is None:
            values[f"retrieval.{name}"] = self_retrieval(code[0], code[1])
        else:
            values[f"knn.{name}"] = knn(code[0], labels)
    return values


def rank_me(h: Tensor) -> float:
    """Compute RankMe of h (N, H): exp of the entropy of its normalised singular values (Garrido et al., 2023).

    >>> round(rank_me(torch.eye(8)), 3), round(rank_me(torch.ones(8, 4)), 3)
    (8.0, 1.0)
    """
    values = torch.linalg.svdvals(h if h.dtype == torch.float64 else h.float())
    return torch.special.entr(values / values.sum().clamp_min(1e-12)).sum().exp().item()


def self_retrieval(database: Tensor, queries: Tensor) -> float:
    """Count in per cent which of N codes (N, D) finds the code (N, D) of the same image first, by inner product.

    Codes that are equally near have no order, so each counts in part.

    >>> self_retrieval(torch.eye(4), torch.eye(4)), self_retrieval(torch.ones(4, 2), torch.ones(4, 2))
    (100.0, 25.0)
    """
    similarity = queries @ database.T
    nearest = similarity == similarity.amax(1, keepdim=True)
    return 100 * (nearest.diagonal() / nearest.sum(1)).mean().item()


def knn(code: Tensor, labels: Tensor) -> float:
    """Classify each of N codes (N, D) by the majority of the others nearest to it; returns the per cent right."""
    similarity = (code @ code.T).fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(NEIGHBOURS, len(code) - 1)).indices.cpu()
    guesses = F.one_hot(labels[nearest], int(labels.max()) + 1).sum(1).argmax(1)
    return 100 * (guesses == labels).float().mean().item()


def count_faults(bits: Tensor) -> dict[str, float]:
    """Count among (N, D) booleans the dead, which never change, and the doubled, which say the same as another."""
    signs = 2.0 * bits[:, bits.any(0) & ~bits.all(0)] - 1
    alike = [((some @ signs).abs() > (2 * SAME - 1) * len(bits)).sum(1) > 1 for some in signs.T.split(BATCH)]
    return {
        "bits": bits.shape[1],
        "dead": bits.shape[1] - signs.shape[1],
        "doubled": sum(int(some.sum()) for some in alike),
    }

"""Cached gradients (GradCache; Gao et al., 2021): the loss of a whole batch in the memory of a chunk of it.

The loss reads a batch through its embeddings alone. So all chunks are embedded without a graph, the loss
of them together gives the gradient by every embedding, and then each chunk is embedded once more, with a
graph, through which its part of that gradient goes back. The result is the gradient of the unsplit batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from stochcon.method.model import Embedded
from stochcon.train.chunked_norm import ChunkedBatchNorm

Embed = Callable[[int], Embedded]
"""Embeds a chunk by its number: with the same views and the same noise whenever it is called."""


def backward(
    fabric: Fabric,
    network: _FabricModule,
    embed: Embed,
    chunks: int,
    loss: Callable[[Embedded], Tensor],
    exact: bool = False,
) -> tuple[Tensor, Embedded]:
    """Adds the gradient of the loss of all chunks together to the parameters; the loss and all embeddings.

    embed: calls the network, once, for a chunk of the images, all chunks having as many. Batch norm takes
    its statistics from one chunk (of every process, if it is synchronised). exact: from all of them, which
    takes many passes (see `chunked_norm`). Memory is that of a chunk's step and of the batch's embeddings.
    """
    if not exact:
        with _buffers_unchanged(network):
            parts = _without_graph(embed, chunks)
        value, whole, gradients = _by_embeddings(parts, loss)
        for k in range(chunks):
            with fabric.no_backward_sync(network, enabled=k < chunks - 1):
                fabric.backward(_dot(embed(k), gradients[k]))
        return value, whole

    norm = ChunkedBatchNorm()

    def embed_afresh(k: int) -> Embedded:
        norm.start_chunk()
        return embed(k)

    def objective(k: int) -> Tensor:
        return _dot(embed_afresh(k), gradients[k]) + norm.through_moments()

    with norm.in_place_of(network):
        parts, settled = _without_graph(embed_afresh, chunks), norm.measured()
        for _ in norm.norms:
            if settled:
                break
            parts, settled = _without_graph(embed_afresh, chunks), norm.measured()
        value, whole, gradients = _by_embeddings(parts, loss)
        norm.differentiate()
        for _ in norm.norms:
            by_moments = [torch.zeros_like(moments) for moments in norm.moments]
            for k in range(chunks):
                with fabric.no_backward_sync(network):
                    some = torch.autograd.grad(objective(k), norm.moments, materialize_grads=True)
                by_moments = [a + b for a, b in zip(by_moments, some, strict=True)]
            if norm.take(by_moments):
                break
        for k in range(chunks):
            with fabric.no_backward_sync(network, enabled=k < chunks - 1):
                fabric.backward(objective(k))
    return value, whole


@torch.no_grad()
def _without_graph(embed: Embed, chunks: int) -> list[Embedded]:
    return [embed(k) for k in range(chunks)]


def _by_embeddings(
    parts: list[Embedded], loss: Callable[[Embedded], Tensor]
) -> tuple[Tensor, Embedded, list[Embedded]]:
    """The loss, its embeddings, and its gradient by those of each chunk."""
    whole = Embedded(*(torch.cat(part, dim=1).requires_grad_() for part in zip(*parts, strict=True)))
    value = loss(whole)
    gradients = torch.autograd.grad(value, whole, materialize_grads=True)
    split = (gradient.chunk(len(parts), dim=1) for gradient in gradients)
    return value.detach(), whole, [Embedded(*part) for part in zip(*split, strict=True)]


def _dot(embedded: Embedded, gradient: Embedded) -> Tensor:
    return torch.stack([(x * g).sum() for x, g in zip(embedded, gradient, strict=True)]).sum()


@contextmanager
def _buffers_unchanged(network: nn.Module) -> Iterator[None]:
    """Running statistics move in the second pass only."""
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)

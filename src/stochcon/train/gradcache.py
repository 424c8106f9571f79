"""Cached gradients (GradCache; Gao et al., 2021): the loss of a whole batch in the memory of a chunk of it.

The objective reads a batch through its embeddings alone. So all chunks are embedded without a graph, the objective of
them together gives the gradient with respect to every embedding, and then each chunk is embedded once more, with a
graph, through which its part of that gradient goes back. The result is the gradient of the unsplit batch, except
that batch norm takes its statistics from one chunk (of every process, if it is synchronised).
"""

from collections.abc import Callable
from functools import partial

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor

from stochcon.method.algorithm1 import Embeddings, Objective

RunChunk = Callable[[int, Objective], Tensor]
"""Runs Algorithm 1 on a chunk by its number, with the same views and the same noise whenever it is called."""


def backward(fabric: Fabric, network: _FabricModule, run: RunChunk, chunks: int, objective: Objective) -> Tensor:
    """Add the gradient of the objective of all chunks together to the parameters, and return its value.

    Memory is that of a chunk's step and of the batch's embeddings. All chunks have as many images.
    """
    parts: list[Embeddings] = []

    def keep(embeddings: Embeddings) -> Tensor:
        parts.append(embeddings)
        return embeddings.v.new_zeros(())

    before = [buffer.clone() for buffer in network.buffers()]
    with torch.no_grad():
        for k in range(chunks):
            run(k, keep)
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)  # running statistics move in the second pass only
    whole = Embeddings(*(torch.cat(part, dim=1).requires_grad_() for part in zip(*parts, strict=True)))
    value = objective(whole)
    gradients = torch.autograd.grad(value, whole, materialize_grads=True)
    of_chunks = zip(*(gradient.chunk(chunks, dim=1) for gradient in gradients), strict=True)
    for k, gradient in enumerate(of_chunks):
        with fabric.no_backward_sync(network, enabled=k < chunks - 1):
            fabric.backward(run(k, partial(_dot, gradient)))
    return value.detach()


def _dot(gradient: tuple[Tensor, ...], embeddings: Embeddings) -> Tensor:
    return torch.stack([(x * g).sum() for x, g in zip(embeddings, gradient, strict=True)]).sum()

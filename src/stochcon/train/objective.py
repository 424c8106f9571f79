"""The objective of a configuration: equation 1 over the pairs of a multi-crop, and the extensions that it turns on."""

from torch import Tensor

from stochcon.config import Config
from stochcon.method.algorithm1 import Embeddings, Objective
from stochcon.method.latents import Latent
from stochcon.method.objective import decorrelation, multi_crop_info_nce


def build_objective(config: Config, latent: Latent, details: dict[str, float | Tensor]) -> Objective:
    """Make what a training minimises.

    Args:
        config: The configuration, of which it reads `latent` and the temperature.
        latent: The model's latent.
        details: Receives what the log has beside the loss: for bits the share `active` that is on (section 4.3), and
            the part of the loss that is not equation 1, `extensions`, where there is one.
    """
    options = config.latent

    def contrast(v: Tensor, v_prime: Tensor, temperature: float) -> Tensor:
        top, bottom = (v_prime, v) if options.placement == "top" else (v, v_prime)
        return multi_crop_info_nce(top, bottom, temperature)

    def objective(embeddings: Embeddings) -> Tensor:
        v, v_prime, logits, c, c_prime = embeddings
        loss = equation_1 = contrast(v, v_prime, config.temperature)
        if c.shape[-1]:
            loss = loss + options.contrast * contrast(c, c_prime, options.contrast_temperature)
        if options.decorrelation and latent.has_code:
            loss = loss + options.decorrelation * decorrelation(logits)
        if loss is not equation_1:
            details["extensions"] = (loss - equation_1).detach()
        if latent.binary:
            details["active"] = (logits.detach() > 0).float().mean()
        return loss

    return objective

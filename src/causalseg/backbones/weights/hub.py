"""Weights on the Hugging Face hub, in its cache on this machine or by download."""

from pathlib import Path

import huggingface_hub
import timm
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE as HUB_FILE
from huggingface_hub.errors import HTTPError

from causalseg.backbones.weights.wheel import INSTALL_WHEEL
from causalseg.errors import WeightsError


def find_in_cache(repository: str) -> Path | None:
    """Return the weight file of a repository in the cache; None if it was not downloaded."""
    path = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE)
    return Path(path) if isinstance(path, str) else None  # or a mark: there is no such file


def fetch_from_hub(name: str) -> Path:
    """Return the published weight file of a timm model, downloaded if it is not in the cache.

    Raises WeightsError if timm publishes none, or the hub cannot be reached.
    """
    config = timm.get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if not repository:
        raise WeightsError(f"timm publishes no weights for {name}: give weights a file or random")
    if cached := find_in_cache(repository):
        return cached
    try:
        # One request fails at once if the hub is unreachable; the download retries for a minute.
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, HUB_FILE))
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILE))
    except (HTTPError, OSError) as error:
        raise WeightsError(
            f"weights: hub cannot get {HUB_FILE} of {repository} ({error}).\n"
            "  with a network: unset HF_HUB_OFFLINE\n"
            "  downloaded before: HF_HOME must name the folder that holds the cache\n"
            f"  without: weights=<a local file>, weights=wheel ({INSTALL_WHEEL}; ViT-S/14 only), "
            "or weights=random"
        ) from error

"""Generators of what is random in training, from its seed."""

import hashlib

import torch


def derived_seed(*parts: int) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def epoch_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Return the generator of all randomness of one epoch, so that an epoch can be repeated on its own."""
    return torch.Generator(device).manual_seed(derived_seed(seed, epoch))

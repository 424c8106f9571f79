"""Tiny nets are fastest on one thread, and a loaded machine must not fail a property."""

import os

import torch
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)
settings.register_profile("stochcon", deadline=None)
settings.load_profile("stochcon")

"""One thread: the arithmetic is small, and other runs share the cores."""

import torch

torch.set_num_threads(1)

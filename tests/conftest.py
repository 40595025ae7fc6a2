"""Settings that every test shares; they must be made before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist already fills the cores
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for the network

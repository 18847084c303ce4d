"""What a suggestion costs. One thread: a sampler works beside trainings that want the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

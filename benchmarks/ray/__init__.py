"""The same job by the local, Ray and Ray Tune executors; faults; many slots."""

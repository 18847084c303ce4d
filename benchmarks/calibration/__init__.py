"""Whether what a tuning states of its answer is true: simulated studies, answers judged on fresh seeds."""

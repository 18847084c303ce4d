"""What each technique does to the seconds of a step and to the metric, at equal training time."""

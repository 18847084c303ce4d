"""Tune, then train with the answer and keep the model: python examples/python_call.py"""

import sys

import autoaccel

budget = sys.argv[1] if len(sys.argv) > 1 else "60s"
result = autoaccel.tune("digits", budget=budget)
if not result.target_met:
    print("the target was not met within the budget; this is the best that is known")
elif result.speedup.value:  # None where the baseline was not seen to reach the target
    print(f"{result.speedup.value:.1f}x faster than the baseline")
print(f"evidence in {result.run_dir}")

trained = autoaccel.train("digits", result.config, target=0.93)
print(f"{trained.outcome} after {trained.elapsed_s:.2f}s, test accuracy {trained.test_value:.3f}")
print(f"{sum(p.numel() for p in trained.model.parameters())} trained parameters")

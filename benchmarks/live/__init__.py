"""Real tunings against peers that drive the same trainer: equal budgets, answers trained again on fresh seeds."""

"""The demo's claim, checked on seeds that neither the search nor the confirmation ever saw."""

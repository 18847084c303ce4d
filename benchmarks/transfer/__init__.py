"""Re-tunings of finished studies on other hardware, against studies from scratch there."""

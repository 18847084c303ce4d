"""A user's own task in a short script: Fashion-MNIST, three minutes, checked on further fresh seeds."""

"""Ray Tune with ASHA on scikit-learn's digits: python examples/ray_tune_asha.py FOLDER; again, and it goes on."""

import pickle
import sys
import tempfile
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

images, labels = load_digits(return_X_y=True)
x_train, x_val, y_train, y_val = train_test_split(images / 16, labels, test_size=0.4, random_state=0, stratify=labels)


def train(config):
    """One training; the learning rate falls to zero at its end."""
    model, done = SGDClassifier(loss="log_loss", learning_rate="constant", alpha=config["alpha"]), 0
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            model, done = pickle.loads(Path(folder, "model").read_bytes())
    for epoch in range(done, config["epochs"]):
        model.set_params(eta0=config["rate"] * (1 - epoch / config["epochs"]))
        model.partial_fit(x_train, y_train, classes=range(10))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model").write_bytes(pickle.dumps((model, epoch + 1)))
            saved = tune.Checkpoint.from_directory(folder)
            tune.report({"accuracy": model.score(x_val, y_val)}, checkpoint=saved)


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "ray_results").resolve()
    if tune.Tuner.can_restore(str(path / "digits")):
        tuner = tune.Tuner.restore(str(path / "digits"), trainable=train, resume_errored=True)
    else:
        tuner = tune.Tuner(
            train,
            param_space={
                "rate": tune.loguniform(1e-4, 1.0),
                "alpha": tune.loguniform(1e-7, 1e-2),
                "epochs": 60,
            },
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                scheduler=ASHAScheduler(max_t=60),
                num_samples=30,
            ),
            run_config=tune.RunConfig(
                name="digits", storage_path=str(path), failure_config=tune.FailureConfig(max_failures=1), verbose=0
            ),
        )
    results = tuner.fit()
    print(f"{len(results)} trials, best: {results.get_best_result().config}")

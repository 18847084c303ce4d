"""The search in an Optuna study of your own, on scikit-learn's digits: python examples/optuna_study.py [SECONDS]"""

import sys
import time

import optuna
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from autoaccel import TimeToTargetPruner, TimeToTargetSampler

TARGET = 0.95
images, labels = load_digits(return_X_y=True)
x_train, x_val, y_train, y_val = train_test_split(images / 16, labels, test_size=0.4, random_state=0, stratify=labels)


def epochs_of(trial, rate, alpha, epochs):
    """Validation accuracy after each epoch; the learning rate falls to zero at the horizon."""
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, alpha=alpha, random_state=trial.number)
    for epoch in range(epochs):
        model.set_params(eta0=rate * (1 - epoch / epochs))
        model.partial_fit(x_train, y_train, classes=range(10))
        yield model.score(x_val, y_val)


def objective(trial):
    """What a user writes: suggest, report, stop at the target, return the seconds."""
    rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
    alpha = trial.suggest_float("alpha", 1e-7, 1e-2, log=True)
    epochs = trial.suggest_int("epochs", 1, 60, log=True)
    start = time.perf_counter()
    for epoch, accuracy in enumerate(epochs_of(trial, rate, alpha, epochs), start=1):
        trial.report(accuracy, epoch)
        if accuracy >= TARGET:
            break
        if trial.should_prune():
            raise optuna.TrialPruned
    return time.perf_counter() - start


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = TimeToTargetSampler(TARGET, horizon="epochs", seed=0)
    study = optuna.create_study(sampler=sampler, pruner=TimeToTargetPruner(sampler))
    study.optimize(objective, timeout=float(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(f"{len(study.trials)} trials, least expected time to {TARGET:.0%}: {sampler.answer(study)}")

"""A search over hyperparameters: each trial is one training job, wherever the client runs it.

    python optuna_objective.py [WHERE] [TRIALS]
    python optuna_objective.py local 6

WHERE is `inline`, `local`, `redis`, or the URL of a server or a RunPod endpoint. The data travel
by name, so a trial sends less than a kilobyte. Trials that fall behind are stopped early.
"""

import sys

import optuna

import visiondyno

LAYERS = [
    {"type": "conv2d", "in_channels": 1, "out_channels": 8, "kernel_size": 3},
    {"type": "relu"},
    {"type": "max_pool2d", "kernel_size": 4},
    {"type": "flatten"},
    {"type": "linear", "in_features": 392, "out_features": 10},
]


def search(where: str, trials: int) -> optuna.Study:
    """The finished study, of as many trials."""
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=0), pruner=optuna.pruners.MedianPruner(2)
    )
    with visiondyno.Client(where) as client:
        trainer = visiondyno.Trainer(client)

        def objective(trial: optuna.Trial) -> float:
            found = trainer.hyperparameter_trial(
                {"type": "sequential", "layers": LAYERS},
                "digits:train:1000",
                "digits:val:200",
                {
                    "batch_size": 16,
                    "optimizer": trial.suggest_categorical("optimizer", ["adam", "sgd"]),
                    "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True),
                },
                epochs=5,
                trial=trial,
                seed=0,
            )
            return float(found["final_val_metrics"]["loss"])

        study.optimize(objective, n_trials=trials)
    return study


def main() -> int:
    """Search, and print the best trial."""
    where, trials = (*sys.argv[1:], *("inline", "6")[len(sys.argv) - 1 :])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = search(where, int(trials))
    except visiondyno.VisionDynoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for trial in study.trials:
        print(f"{trial.number}: {trial.state.name.lower()}, {trial.params}")
    print(f"Best: trial {study.best_trial.number}, loss {study.best_value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

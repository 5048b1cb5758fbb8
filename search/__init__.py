"""The search: Ray Tune workers, an Optuna study as the only truth, MLflow as its mirror."""

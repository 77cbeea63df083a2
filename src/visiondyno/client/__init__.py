"""Jobs and training from scripts and notebooks: clients, trainer, model states."""

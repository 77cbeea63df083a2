"""`RunPodGPUClient` and `GPUTrainingOrchestrator`: names for a client of RunPod and its trainer."""

from typing import Any, Unpack

from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.client.options import AnyHyperparameters, JobOptions
from visiondyno.client.trainer import Trainer
from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.settings import load_settings


class RunPodGPUClient(Client):
    """A client of one RunPod endpoint, or of whatever speaks its job API."""

    def __init__(
        self, endpoint_url: str | None = None, api_key: str | None = None, **options: Any
    ) -> None:
        """Name the endpoint; nothing is asked of it yet.

        Args:
            endpoint_url: `https://api.runpod.ai/v2/ID`, or the ID alone; None: what
                `RUNPOD_ENDPOINT_ID` says, in the environment or `.env`.
            api_key: None: `RUNPOD_API_KEY`, from there too, at RunPod itself and at an endpoint of
                this machine; no other is sent it.
            **options: of `Client`, such as `gpu`, `max_cost_usd` and `fallback`.

        Raises:
            SpecError: neither says which endpoint, or what they say can't be one.
        """
        settings = load_settings()
        if endpoint_url is None and not settings.runpod_endpoint_id:
            raise SpecError(
                "No RunPod endpoint is named; give 'endpoint_url', or set RUNPOD_ENDPOINT_ID "
                "and RUNPOD_API_KEY in the environment or in .env."
            )
        place = Place("runpod", endpoint=endpoint_url, api_key=api_key)
        url = place.endpoint_url(settings)
        super().__init__("runpod", endpoint=url, api_key=api_key, **options)
        self._trainer = Trainer(self)

    def train_epoch(
        self,
        model_config: Any,
        training_data: Any,
        hyperparameters: AnyHyperparameters = None,
        model_state: ModelState | None = None,
        **options: Unpack[JobOptions],
    ) -> tuple[dict[str, float], ModelState]:
        """`Trainer.train_epoch`: the epoch's metrics, and the state after it."""
        return self._trainer.train_epoch(
            model_config, training_data, hyperparameters, model_state=model_state, **options
        )

    def evaluate(
        self,
        model_config: Any,
        model_state: ModelState | None,
        validation_data: Any,
        hyperparameters: AnyHyperparameters = None,
        **options: Unpack[JobOptions],
    ) -> dict[str, float]:
        """`Trainer.evaluate`: the metrics on labelled data."""
        return self._trainer.evaluate(
            model_config, model_state, validation_data, hyperparameters, **options
        )

    def health_check(self) -> dict[str, Any]:
        """`health`: jobs by state and workers; an endpoint that doesn't answer raises."""
        return self.health()


class GPUTrainingOrchestrator(Trainer):
    """`Trainer` by another name: `train_model`, `hyperparameter_trial` and the others."""

"""BentoML: two worker processes. `bentoml serve bentoml_service:Detector`."""

from typing import Annotated

import bentoml  # type: ignore[import-not-found, unused-ignore]
from bentoml.validators import ContentType  # type: ignore[import-not-found, unused-ignore]
from serving_work import Work


@bentoml.service(workers=2, traffic={"timeout": 30})  # type: ignore[untyped-decorator, unused-ignore]
class Detector:
    """Bytes in, JSON bytes out."""

    def __init__(self) -> None:
        self._work = Work()

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator, unused-ignore]
    def predict(
        self, image: Annotated[bytes, ContentType("image/jpeg")], /
    ) -> Annotated[bytes, ContentType("application/json")]:
        """One image."""
        return self._work(image)

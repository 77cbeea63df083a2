"""mosec: two worker processes behind its own front. Its flags say where it listens."""

from mosec import Server, Worker  # type: ignore[import-not-found, unused-ignore]
from serving_work import Work


class Detector(Worker):  # type: ignore[misc, unused-ignore]
    """Bytes in, JSON bytes out; nothing is pickled or encoded on the way."""

    def __init__(self) -> None:
        super().__init__()
        self._work = Work()

    def deserialize(self, data: bytes) -> bytes:
        """The image as it came."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """JSON already."""
        return data

    def forward(self, data: bytes) -> bytes:
        """One image."""
        return self._work(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Detector, num=2, route="/predict")
    server.run()

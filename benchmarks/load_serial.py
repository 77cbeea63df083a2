"""A server that takes one request after the other, 20 ms each: `load_serial.py LOG`.

Prints its port. LOG gets a line a request: when its connection was taken and when it was answered,
ns of CLOCK_MONOTONIC. Each answer ends its connection, so waiting happens in the system's queue.
"""

import socket
import sys
import time
from pathlib import Path

SERVICE_S = 0.02
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def main(path: Path) -> None:
    """Serve until it is killed."""
    with path.open("w") as log, socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            begin_ns = time.monotonic_ns()
            with connection:
                if connection.recv(65536):
                    time.sleep(SERVICE_S)
                    connection.sendall(ANSWER)
                    print(begin_ns, time.monotonic_ns(), file=log, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

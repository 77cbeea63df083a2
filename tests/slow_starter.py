"""A server that takes its time to start, as a program: `python slow_starter.py PORT OPTIONS`.

It listens after `listens_after_s`, refuses with 503 for `refuses` requests, and then answers.
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

STAGES = "start-process;dur=20.5, start-load;dur=5, start-first-inference;dur=2.25"
METRICS = """# TYPE visiondyno_cold_start_seconds histogram
visiondyno_cold_start_seconds_sum{{phase="process"}} {0}
visiondyno_cold_start_seconds_count{{phase="process"}} {1}
visiondyno_cold_start_seconds_sum{{phase="load"}} {0}
visiondyno_cold_start_seconds_count{{phase="load"}} {1}
visiondyno_cold_start_seconds_sum{{phase="first_inference"}} {0}
visiondyno_cold_start_seconds_count{{phase="first_inference"}} {1}
"""


DEAF_CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(300)
"""


def main(port: int, options: dict) -> None:
    if options.get("is_stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    if options.get("has_child"):
        child = subprocess.Popen(
            [sys.executable, "-c", DEAF_CHILD], start_new_session=True, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        pids.append(child.pid)
    Path(options["pids"]).write_text(json.dumps(pids))
    time.sleep(options.get("listens_after_s", 0))
    if "ends_with" in options:
        print("first line\nsomething is wrong with the model", flush=True)
        sys.exit(options["ends_with"])
    HTTPServer.allow_reuse_address = True
    with HTTPServer(("127.0.0.1", port), answering(options)) as server:
        server.serve_forever()


def answering(options: dict) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics" and "metrics" in options:
                self._answer(200, METRICS.format(*options["metrics"]).encode())
            elif self.path == "/metrics":
                self._answer(404, b"")
            elif options.get("refuses", 0):
                options["refuses"] -= 1
                self._answer(503, b"starting")
            else:
                self._answer(200, b"{}", STAGES if options.pop("stages", False) else None)

        def _answer(self, status: int, body: bytes, stages: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if stages:
                self.send_header("Server-Timing", stages)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))

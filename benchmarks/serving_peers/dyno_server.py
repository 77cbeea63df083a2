"""`dyno serve` with two replicas of one thread. `python dyno_server.py PORT`."""

import os
import sys

from serving_work import MODEL_VARIABLE
from visiondyno.api.listening import run
from visiondyno.serving.config import load_serving_config
from visiondyno.serving.run import serve

if __name__ == "__main__":
    run(
        serve(
            load_serving_config(
                model=os.environ[MODEL_VARIABLE],
                replicas_least=2,
                replicas_most=2,
                threads=1,
                port=int(sys.argv[1]),
            )
        )
    )

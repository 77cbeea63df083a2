"""FastAPI as it is mostly written: a `def` handler, in one process.

`python fastapi_server.py PORT`.
"""

import sys
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI, Response
from serving_work import Work

work = Work()
app = FastAPI()


@app.post("/predict")
def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> Response:
    """One image, on a thread of the pool."""
    return Response(work(image), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)

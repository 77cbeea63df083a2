"""Flask for gunicorn: `gunicorn --workers 1 --threads 2 flask_server:app`."""

from flask import Flask, Response, request
from serving_work import Work

work = Work()
app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """One image, on a thread of gunicorn's."""
    return Response(work(request.get_data()), content_type="application/json")

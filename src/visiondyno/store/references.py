"""Which blobs the records of a store refer to."""

import json

from visiondyno.blobs.references import references_in
from visiondyno.store.base import Store

_ALL = 1_000_000


def referenced_blobs(store: Store) -> set[str]:
    """The SHA-256 of the models of all submissions, and of what open jobs' inputs refer to."""
    submissions = store.submissions.find(limit=_ALL)
    wanted = {submission.model_sha256 for submission in submissions}
    for job in store.jobs.open_jobs():
        wanted.update(references_in(json.dumps(job.request.input)))
    return wanted

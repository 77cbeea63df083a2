"""Submit, watch, record, cancel: the only writer of the store."""

from visiondyno.service.service import Service

__all__ = ["Service"]

"""Run one function in a fresh, killable child process, limited where its work isn't trusted.

`child` starts it and listens, `limits` says what it may use, and `confine` (with `landlock` and
`seccomp`) holds it to that, inside the child, before anything of the work is loaded.

What holds, and what doesn't, docs/submissions.md says.
"""

from visiondyno.sandbox.child import run_in_child
from visiondyno.sandbox.limits import Limits, Protection

__all__ = ["Limits", "Protection", "run_in_child"]

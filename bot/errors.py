"""The errors that have a reader.

    UserError             its text is written for the person who typed; shown as it is
    HubError              GitHub gave no usable answer, after every retry that is safe; trying later may help
    └── HubRefused        GitHub understood and said no; trying again will not help
        └── Moved         the branch has another commit than the one a change was built on; build it again

Everything else is "something failed": details go to the log, never into a comment.
"""


class UserError(Exception):
    """Something the commenter or the person at the terminal can put right; the text says how."""


class HubError(Exception):
    """GitHub could not be reached, failed, or answered with what is no answer."""


class HubRefused(HubError):
    """A missing permission, a thing that is not there, or a request that GitHub will never take. `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Moved(HubRefused):
    """Somebody else pushed first."""

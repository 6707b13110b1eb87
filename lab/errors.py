"""The errors a user can cause or meet: one sentence each, and the exit status that goes with it."""

MEASURED = 0
COULD_NOT_MEASURE = 1
BAD_USAGE = 2
VOID = 3


class LabError(Exception):
    """The lab could not measure; the message is the one sentence the user reads."""

    exit_status = COULD_NOT_MEASURE


class UsageError(LabError):
    """The user asked for something that does not exist or cannot be."""

    exit_status = BAD_USAGE

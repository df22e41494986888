# SPDX-License-Identifier: Apache-2.0
"""Sees to it that connections cannot use up the files that the process may have open."""

import logging
import resource

from adapmoe.serve.config import ConfigError

_log = logging.getLogger("adapmoe")

_OTHERS = 256  # for the pack, libraries and the event loop


def needed_files(max_connections: int) -> int:
    """How many open files a server with so many connections should be allowed.

    As many connections again are told that there are too many, and twice as many may be about to
    be made: in a handshake of TLS, or not closed yet.
    """
    return 4 * max_connections + _OTHERS


def allow_open_files(max_connections: int) -> None:
    """Raise the limit of open files of this process to what connections need.

    Where the hard limit is lower, the limit becomes that, and the log has a warning.

    Raises:
        ConfigError: the hard limit is too low even for the connections that are answered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = needed_files(max_connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    advice = (
        "raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd), or have fewer connections"
    )
    if possible < max_connections + _OTHERS:
        raise ConfigError(
            f"max_connections: {max_connections} connections need {max_connections + _OTHERS} "
            f"open files, and this process may have {possible}; {advice}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < needed:
        _log.warning(
            "max_connections: %d connections should have %d open files, and this process may have "
            "%d; with fewer, clients that do nothing can keep out others: %s",
            max_connections,
            needed,
            possible,
            advice,
        )

# SPDX-License-Identifier: Apache-2.0
"""A user who is not in the password file, as in many containers."""

import os
import pwd


def leave_home(monkeypatch, home):
    """HOME is `home`, None: unset; nothing else tells where to keep files."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)

    def missing(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", missing)
    monkeypatch.setattr(os, "getuid", lambda: 54321)

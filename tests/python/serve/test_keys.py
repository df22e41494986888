# SPDX-License-Identifier: Apache-2.0
"""API keys come from a private file, and no message shows a secret."""

import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.serve import keys as keys_module
from adapmoe.serve.config import ConfigError
from adapmoe.serve.keys import Keys

ALICE, BOB = "a" * 16, "b" * 20 + ":#"


@pytest.fixture
def write(tmp_path):
    def make(content, mode=0o600):
        path = tmp_path / "keys"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    return make


def test_a_key_is_found_by_its_secret(write):
    keys = Keys.of_file(write(f"# who may\n\nalice:{ALICE}\r\n  bob-2:{BOB}  \n"))
    assert keys.names == ["alice", "bob-2"]
    assert keys.find(ALICE) == "alice"
    assert keys.find(BOB) == "bob-2"
    for wrong in ("", "alice", ALICE[:-1], ALICE + "a", ALICE.upper(), f"alice:{ALICE}", "\udcff"):
        assert keys.find(wrong) is None


@given(st.text())
def test_nothing_else_is_a_key(presented):
    keys = Keys(None, {"alice": keys_module._digest(ALICE)})
    assert keys.find(presented) == ("alice" if presented == ALICE else None)


def test_every_key_is_compared_whichever_it_is(write, monkeypatch):
    keys = Keys.of_file(write("".join(f"k{i}:{i:016}\n" for i in range(5))))
    compared = []
    compare = hmac.compare_digest

    def recorded(left, right):
        compared.append((left, right))
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", recorded)
    for presented in (f"{0:016}", f"{4:016}", "wrong"):
        compared.clear()
        keys.find(presented)
        assert len(compared) == 5
        assert all(len(left) == len(right) == 32 for left, right in compared)


def test_no_secret_stays_in_the_object(write):
    keys = Keys.of_file(write(f"alice:{ALICE}"))
    assert ALICE not in repr(vars(keys))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "keys: no API key in it; write lines name:secret"),
        ("# none", "keys: no API key in it"),
        (f"alice {ALICE}", "keys:1: expected name:secret"),
        (f"\n:{ALICE}", "keys:2: a key's name is"),
        (f"al ice:{ALICE}", "keys:1: a key's name is"),
        (f"ålice:{ALICE}", "keys:1: a key's name is"),
        (f"alice: {ALICE}", "keys:1: a secret is printable ASCII without spaces"),
        ("alice:" + "å" * 20, "keys:1: a secret is printable ASCII"),
        ("alice:" + "a" * 15, "keys:1: the secret of alice is shorter than 16 characters"),
        (f"alice:{ALICE}\nalice:{BOB}", "keys:2: a second key is named alice"),
        (f"alice:{ALICE}\nbob:{ALICE}", "keys:2: bob has the secret of another key"),
        (b"alice:\xff", "keys: byte 6 is not UTF-8"),
        ("#" * (2 << 20), "keys: longer than 1 MiB"),
    ],
)
def test_a_wrong_file_is_refused_without_telling_secrets(write, content, message):
    path = write(content)
    with pytest.raises(ConfigError) as raised:
        Keys.of_file(path)
    assert str(raised.value).startswith(str(path.parent))
    assert message in str(raised.value)
    assert ALICE not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_can_read_or_write_is_refused(write, mode):
    with pytest.raises(ConfigError, match=rf"mode 0{mode:o}\); run: chmod 600 "):
        Keys.of_file(write(f"alice:{ALICE}", mode))


def test_what_is_no_file_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="keys cannot be read: No such file"):
        Keys.of_file(tmp_path / "none")
    with pytest.raises(ConfigError, match="not a regular file"):
        Keys.of_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        Keys.of_file(tmp_path / "pipe")


def test_keys_can_be_read_again_and_a_wrong_file_changes_nothing(write):
    keys = Keys.of_file(write(f"alice:{ALICE}"))
    write(f"bob:{BOB}")
    keys.read_again()
    assert (keys.find(ALICE), keys.find(BOB)) == (None, "bob")
    write("bob:short")
    with pytest.raises(ConfigError):
        keys.read_again()
    assert keys.find(BOB) == "bob"

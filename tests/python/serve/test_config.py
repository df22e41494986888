# SPDX-License-Identifier: Apache-2.0
"""The server's configuration: three places, their order, and messages that name what is wrong."""

import builtins
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapmoe.cli.main import app
from adapmoe.serve.config import (
    KEYS,
    SERVE_KEYS,
    SETTINGS_KEYS,
    ConfigError,
    describe_config,
    read_config,
)
from adapmoe.serve.settings import ServeSettings
from adapmoe.settings import Settings

# Another value than the default of every key, as TOML, as a variable, and as it arrives.
OTHER = {
    "host": ('"::1"', "::1", "::1"),
    "port": ("0", "0", 0),
    "model_name": ('"m"', "m", "m"),
    "drain": ("1", "1", 1.0),
    "keys": ('"/k"', "/k", "/k"),
    "tls_key": ('"/k"', "/k", "/k"),
    "tls_cert": ('"/c"', "/c", "/c"),
    "allowed_hosts": ('["a.b", "C"]', "a.b, C", ("a.b", "c")),
    "cors": ('["https://a.b:1"]', "https://a.b:1", ("https://a.b:1",)),
    "max_queue": ("3", "3", 3),
    "timeout": ("1.5", "1.5", 1.5),
    "keep_free": ('"1GiB"', "1GiB", "1GiB"),
    "max_body": ('"1MiB"', "1MiB", "1MiB"),
    "max_prompt": ("7", "7", 7),
    "max_connections": ("7", "7", 7),
    "header_timeout": ("2", "2", 2.0),
    "token_gap": ("1", "1", 1.0),
    "memory": ('"3GiB"', "3GiB", "3GiB"),
    "threads": ("3", "3", 3),
    "gating": ('"residency"', "residency", "residency"),
    "experts_resident": ('"50%"', "50%", "50%"),
    "max_context": ("9", "9", 9),
    "max_sequences": ("9", "9", 9),
    "kv_dtype": ('"f32"', "f32", "f32"),
    "backend": ('"cpu"', "cpu", "cpu"),
    "exact": ("false", "no", False),
    "arithmetic": ('"w4a8"', "w4a8", "w4a8"),
    "kernels": ('"scalar"', "scalar", "scalar"),
    "policy": ('"lru"', "lru", "lru"),
    "evict": ('"expert"', "expert", "expert"),
    "allocation": ('"dp"', "dp", "dp"),
    "prefetch": ("0", "0", 0),
    "prefetch_trials": ("false", "False", False),
    "first_layer": ('"none"', "none", "none"),
    "verify": ('"never"', "never", "never"),
    "gating_threshold": ("1", "1", 1.0),
    "sensitivity": ("[1, 0.5]", "1,0.5", [1.0, 0.5]),
    "prefill_chunk": ("5", "5", 5),
    "reader": ('"pread"', "pread", "pread"),
    "read_depth": ("5", "5", 5),
    "request_bytes": ("8192", "8192", 8192),
    "register_buffers": ("true", "1", True),
    "direct_io": ("false", "0", False),
    "warm_restart": ("false", "false", False),
    "verbose": ("false", "false", False),
}


def write(folder, text):
    path = folder / "serve.toml"
    path.write_text(text)
    return path


def value_of(config, key):
    return getattr(config.serve if key in SERVE_KEYS else config.settings, key)


def as_flag(value):
    return list(value) if isinstance(value, tuple) else value


def test_every_key_has_an_example_and_belongs_to_one_owner():
    assert set(OTHER) == set(KEYS) - {"pack"}
    assert not set(SERVE_KEYS) & set(SETTINGS_KEYS)


def test_without_anything_else_defaults_hold_and_the_server_has_its_own():
    config = read_config(None, {}, {"pack": "/packs/tiny.adapmoe"})
    assert config.serve == ServeSettings()
    assert config.settings == Settings(max_sequences=4, verbose=True)
    assert config.model_name == "tiny"
    assert config.sources == {"pack": "PACK"}
    assert dataclasses.replace(config, serve=ServeSettings(model_name="m")).model_name == "m"


@pytest.mark.parametrize("key", OTHER)
def test_every_key_can_be_given_in_each_of_the_places(key, tmp_path):
    toml, variable, expected = OTHER[key]
    path = write(tmp_path, f"pack = 'p'\n{key} = {toml}\n")
    of_file = read_config(path, {}, {})
    of_environment = read_config(
        None, {"ADAPMOE_PACK": "p", "ADAPMOE_" + key.upper(): variable}, {}
    )
    of_flag = read_config(None, {}, {"pack": "p", key: as_flag(expected)})
    for config in (of_file, of_environment, of_flag):
        assert value_of(config, key) == expected
        assert value_of(config, key) != KEYS[key].default
    assert of_file.sources[key] == str(path)
    assert of_environment.sources[key] == "ADAPMOE_" + key.upper()
    assert of_flag.sources[key] == "--" + key.replace("_", "-")


def test_flags_are_stronger_than_the_environment_and_that_than_the_file(tmp_path):
    path = write(tmp_path, "pack = 'p'\nport = 1\nmax_queue = 1\ndrain = 1\n")
    environment = {"ADAPMOE_PORT": "2", "ADAPMOE_MAX_QUEUE": "2", "HOME": "/"}
    config = read_config(path, environment, {"port": 3, "max_queue": None, "cors": []})
    assert (config.serve.port, config.serve.max_queue, config.serve.drain) == (3, 2, 1)


def test_paths_in_a_file_are_relative_to_its_folder(tmp_path):
    path = write(tmp_path, "pack = 'p'\nkeys = '/etc/keys'\ntls_key = 'key.pem'\n")
    config = read_config(path, {"ADAPMOE_TLS_CERT": "cert.pem"}, {})
    assert config.pack == tmp_path / "p"
    assert config.serve.keys == "/etc/keys"
    assert config.serve.tls_key == str(tmp_path / "key.pem")
    assert config.serve.tls_cert == "cert.pem"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_que = 1", "'max_que' is not a key of the server; did you mean max_queue?"),
        ("max-queue = 1", "'max-queue' is not a key of the server; did you mean max_queue?"),
        ("zzz = 1", "'zzz' is not a key of the server; known are allocation, allowed_hosts,"),
        ("[serve]\nport = 1", "'serve' is not a key"),
        ("timeline = true", "'timeline' is not a key"),
        ("port = '80'", "port must be an integer, not '80'"),
        ("port = 65536", "port must be from 0 to 65535, not 65536"),
        ("port = true", "port must be an integer, not True"),
        ("drain = nan", "drain must be a finite number"),
        ("drain = -1", "drain must be from 0 to"),
        ("keys = ''", "keys must be some printable text"),
        ('host = "a\\u001b"', "host must be some printable text"),
        ("max_body = 'auto'", "max_body must be a size such as '8MiB'"),
        ("max_body = 0", "max_body must be a size such as '8MiB'"),
        ("max_body = 'many'", "max_body must be a size such as '8MiB'"),
        ("allowed_hosts = 'a'", "allowed_hosts must be a list of host names"),
        ("allowed_hosts = ['a', 'b:80']", "allowed_hosts[1] must be a host name or an IP"),
        ("cors = ['*']", "cors[0] must be an origin"),
        ("cors = ['https://a/']", "cors[0] must be an origin"),
        ("cors = ['ftp://a']", "cors[0] must be an origin"),
        ("cors = ['https://a:b']", "cors[0] must be an origin"),
        ("memory = 1.5", "memory must be a whole number of bytes"),
        ("gating = 'of'", "gating must be one of off, sensitivity, residency"),
        ("exact = 1", "exact must be True or False"),
        ("port = 1\nport = 2", "not a TOML file: Cannot overwrite a value"),
        ("port", "not a TOML file: "),
        ("x = " + "[" * 10_000, "not a TOML file: "),
        ("#" * (2 << 20), "longer than 1 MiB"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text, message, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read_config(path, {"ADAPMOE_PACK": "p"}, {})
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("ADAPMOE_MAX_QUE", "1", "ADAPMOE_MAX_QUE is not one of the server; unset it, or: did you "
         "mean ADAPMOE_MAX_QUEUE?"),
        ("ADAPMOE_port", "1", "did you mean ADAPMOE_PORT?"),
        ("ADAPMOE_", "1", "known are ADAPMOE_ALLOCATION"),
        ("ADAPMOE_PORT", "many", "ADAPMOE_PORT must be a whole number, not 'many'"),
        ("ADAPMOE_PORT", " ", "ADAPMOE_PORT must be a whole number, not ' '"),
        ("ADAPMOE_MAX_QUE", "", "did you mean ADAPMOE_MAX_QUEUE?"),
        ("ADAPMOE_PORT", "tcp:8000", "ADAPMOE_PORT must be a whole number, not 'tcp:8000'"),
        ("ADAPMOE_SERVICE_HOST", "example.com", "ADAPMOE_SERVICE_HOST is not one of the server"),
        ("ADAPMOE_PORT_8000", "80", "did you mean ADAPMOE_PORT?"),
        ("ADAPMOE_PORT_8000_TCP", "80", "ADAPMOE_PORT_8000_TCP is not one of the server"),
        ("ADAPMOE_PORT_8000_TCP_PROTO", "http", "ADAPMOE_PORT_8000_TCP_PROTO is not one"),
        ("ADAPMOE_SERVICE_PORT", "8000\n", "ADAPMOE_SERVICE_PORT is not one of the server"),
        ("ADAPMOE_PORT", "70000", "ADAPMOE_PORT must be from 0 to 65535, not 70000"),
        ("ADAPMOE_DRAIN", "x", "ADAPMOE_DRAIN must be a number, not 'x'"),
        ("ADAPMOE_DRAIN", "inf", "ADAPMOE_DRAIN must be a finite number"),
        ("ADAPMOE_EXACT", "2", "ADAPMOE_EXACT must be true or false, not '2'"),
        ("ADAPMOE_SENSITIVITY", "1,x", "ADAPMOE_SENSITIVITY must be a number, not 'x'"),
        ("ADAPMOE_HOST", "\udcff", "ADAPMOE_HOST must be text that UTF-8 can hold"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_environment_is_named(variable, text, message):
    with pytest.raises(ConfigError) as raised:
        read_config(None, {"ADAPMOE_PACK": "p", variable: text}, {})
    assert message in str(raised.value)


def test_variables_of_others_are_left_alone():
    environment = {"ADAPMOE_TRACEBACK": "1", "_ADAPMOE_COMPLETE": "x", "PORT": "y"}
    assert read_config(None, environment, {"pack": "p"}).serve == ServeSettings()


def test_what_kubernetes_tells_about_services_of_our_name_is_left_alone():
    environment = {
        "ADAPMOE_SERVICE_HOST": "10.96.3.4",
        "ADAPMOE_SERVICE_PORT": "8000",
        "ADAPMOE_SERVICE_PORT_HTTP": "8000",
        "ADAPMOE_PORT": "tcp://10.96.3.4:8000",
        "ADAPMOE_PORT_8000_TCP": "tcp://10.96.3.4:8000",
        "ADAPMOE_PORT_8000_TCP_PROTO": "tcp",
        "ADAPMOE_PORT_8000_TCP_PORT": "8000",
        "ADAPMOE_PORT_8000_TCP_ADDR": "10.96.3.4",
        "ADAPMOE_CANARY_SERVICE_HOST": "fd00::7",
        "ADAPMOE_CANARY_PORT": "udp://[fd00::7]:53",
        "ADAPMOE_CANARY_PORT_53_UDP_ADDR": "fd00::7",
    }
    found = read_config(None, environment, {"pack": "p"})
    assert found.serve == ServeSettings()
    assert found.sources == {"pack": "PACK"}


@pytest.mark.parametrize("key", OTHER)
def test_an_empty_variable_takes_back_what_the_file_says(key, tmp_path):
    path = write(tmp_path, f"pack = 'p'\n{key} = {OTHER[key][0]}\n")
    variable = "ADAPMOE_" + key.upper()
    config = read_config(path, {variable: ""}, {})
    assert value_of(config, key) == value_of(read_config(None, {}, {"pack": "p"}), key)
    assert key not in config.sources
    again = read_config(path, {variable: ""}, {key: as_flag(OTHER[key][2])})
    assert value_of(again, key) == OTHER[key][2]


def test_an_empty_variable_takes_back_the_pack(tmp_path):
    with pytest.raises(ConfigError, match="no pack is named"):
        read_config(write(tmp_path, "pack = 'p'"), {"ADAPMOE_PACK": ""}, {})


def test_a_pack_must_be_named():
    with pytest.raises(ConfigError, match="no pack is named: give PACK, the variable ADAPMOE_PACK"):
        read_config(None, {}, {"pack": None})


def test_two_that_exclude_each_other_are_an_error():
    flags = {"pack": "p", "memory": "1GiB", "experts_resident": "50%"}
    with pytest.raises(ConfigError, match="memory and experts_resident exclude each other"):
        read_config(None, {}, flags)
    environment = {"ADAPMOE_MEMORY": "1GiB", "ADAPMOE_EXPERTS_RESIDENT": "50%"}
    with pytest.raises(ConfigError, match="memory and experts_resident exclude each other"):
        read_config(None, environment, {"pack": "p"})


MEMORY, SHARE = {"memory": "1GiB"}, {"experts_resident": "50%"}


@pytest.mark.parametrize(
    ("file", "environment", "flags", "memory", "share"),
    [
        (MEMORY, {}, SHARE, "auto", "50%"),
        (SHARE, {}, MEMORY, "1GiB", None),
        (MEMORY, SHARE, {}, "auto", "50%"),
        ({}, SHARE, MEMORY, "1GiB", None),
        (MEMORY, SHARE, {"memory": "2GiB"}, "2GiB", None),
        (SHARE, {}, {"memory": "auto"}, "auto", None),
        (MEMORY, {"experts_resident": ""}, {}, "1GiB", None),
        (MEMORY, {"memory": "", **SHARE}, {}, "auto", "50%"),
        (MEMORY, {}, {"experts_resident": None}, "1GiB", None),
    ],
)
def test_of_two_that_exclude_each_other_the_stronger_holds(
    file, environment, flags, memory, share, tmp_path
):
    path = write(tmp_path, "".join(f"{key} = '{value}'\n" for key, value in file.items()))
    variables = {"ADAPMOE_" + key.upper(): value for key, value in environment.items()}
    config = read_config(path, variables, {"pack": "p", **flags})
    assert (config.settings.memory, config.settings.experts_resident) == (memory, share)
    assert set(config.sources) == {"pack"} | ({"memory"} if share is None else {"experts_resident"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read: No such file"):
        read_config(tmp_path / "none.toml", {}, {})


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_gives_a_configuration_or_a_typed_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        assert read_config(path, {}, {"pack": "p"}).pack


@given(
    keys=st.sets(st.sampled_from(sorted(set(OTHER) - {"experts_resident"}))),
    name=st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip()),
)
def test_what_is_described_can_be_read_again(tmp_path_factory, keys, name):
    folder = tmp_path_factory.getbasetemp()
    given = {key: as_flag(OTHER[key][2]) for key in keys} | {"model_name": name}
    config = read_config(None, {}, {"pack": "/p\x7f\\\"'é", **given})
    again = read_config(write(folder, describe_config(config)), {}, {})
    assert (again.pack, again.serve, again.settings) == (config.pack, config.serve, config.settings)


def test_a_description_has_every_key_with_its_help_and_source():
    config = read_config(None, {"ADAPMOE_PORT": "1"}, {"pack": "p", "drain": 2.0})
    text = describe_config(config)
    lines = text.splitlines()
    for key in KEYS:
        assert any(line.removeprefix("# ").startswith(f"{key} =") for line in lines), key
        assert KEYS[key].facts["help"] in text
    assert "# From: ADAPMOE_PORT\nport = 1\n" in text
    assert "# From: --drain\ndrain = 2.0\n" in text
    assert "# From: default\nmax_queue = 64\n" in text
    assert "# From: default\n# threads =\n" in text
    headings = [line for line in lines if line in ("# Server", "# Security", "# Limits")]
    assert headings == ["# Server", "# Security", "# Limits"]


# The verb.


@pytest.fixture
def command(monkeypatch):
    """Run `adapmoe serve` in an environment without variables of ours."""
    for name in [name for name in os.environ if name.startswith("ADAPMOE_")]:
        monkeypatch.delenv(name)
    return lambda *words: CliRunner().invoke(app, ["serve", *map(str, words)])


def test_check_config_prints_what_would_hold(command, pack_factory, tmp_path, monkeypatch):
    pack = pack_factory()
    path = write(tmp_path, "port = 1\nmax_queue = 1\nverbose = false\nexact = false\n")
    monkeypatch.setenv("ADAPMOE_MAX_QUEUE", "2")
    done = command(pack, "--config", path, "--check-config", "--exact", "--cors", "http://a")
    assert done.exit_code == 0, done.stderr
    for line in ("port = 1", "max_queue = 2", "verbose = false", "exact = true", "drain = 30.0"):
        assert f"\n{line}\n" in done.stdout
    assert 'cors = ["http://a"]' in done.stdout
    assert f'pack = "{pack}"' in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: no pack is named"),
        (["p", "--port", "70000"], "error: --port must be from 0 to 65535, not 70000"),
        (["p", "--host", "0.0.0.0"], "error: host: other machines could use 0.0.0.0"),
        (["p", "--keys", "/none"], "error: /none: API keys cannot be read"),
        (["p", "--tls-key", "/none"], "error: tls_key and tls_cert need each other"),
        (["p", "--config", "/none"], "error: /none: cannot be read"),
    ],
    ids=lambda part: str(part[-1:]),
)
def test_wrong_usage_is_a_line_and_exit_code_2(command, words, message):
    done = command(*words, "--check-config")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_key_of_a_file_is_named_as_it_is_written_there(command, tmp_path):
    done = command("p", "--config", write(tmp_path, "max_queue = -1"), "--check-config")
    assert f"{tmp_path / 'serve.toml'}: max_queue must be from 0" in done.stderr


def test_check_config_looks_at_the_pack(command, tmp_path):
    done = command(tmp_path, "--check-config")
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(tmp_path) in done.stderr


def test_a_missing_extra_is_named(command, monkeypatch):
    real = builtins.__import__

    def without_uvicorn(name, *rest, **more):
        if name == "adapmoe.serve.start":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_uvicorn)
    done = command("p", "--check-config")
    assert done.exit_code == 2
    assert "needs the Python package 'uvicorn'" in done.stderr
    assert "pip install 'adapmoe[serve]'" in done.stderr


def test_the_verb_starts_a_server_with_what_it_was_told(command, monkeypatch):
    started = []

    def start(config, open_app, ready):
        started.append((config, open_app))
        ready("http://127.0.0.1:1")

    monkeypatch.setitem(sys.modules, "adapmoe.serve.app", SimpleNamespace(open_app="opener"))
    monkeypatch.setattr("adapmoe.serve.start.start", start)
    done = command("/packs/tiny.adapmoe", "--memory", "1GiB", "--no-verbose", "--port", "0")
    assert done.stdout == "tiny is served at http://127.0.0.1:1\n"
    [(config, opener)] = started
    assert opener == "opener"
    assert config.settings == Settings(memory="1GiB", max_sequences=4)
    assert config.serve == ServeSettings(port=0)


def test_a_port_in_use_is_a_line_and_exit_code_1(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "adapmoe.serve.app", SimpleNamespace(open_app=None))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = command("none.adapmoe", "--port", port)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cannot listen at 127.0.0.1, port {port}: Address")


def test_the_module_is_the_verb():
    done = subprocess.run(
        [sys.executable, "-m", "adapmoe.serve", "--port", "70000", "p"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 2
    assert done.stderr == "error: --port must be from 0 to 65535, not 70000\n"

"""A server that misbehaves in every way: over real HTTP, nothing is lost, nothing comes twice, and no key leaks."""

from __future__ import annotations

import logging
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FAULTS, KEY, PARAMS, TASK, Server, engine, options, right_answer
from openai_server import serving

from odeval import sampling
from odeval.engines import http
from odeval.engines.server import ServerEngine
from odeval.errors import CannotJudge, OdevalError
from odeval.sampling import sample
from odeval.store import RunFolder


def rows(folder: RunFolder) -> list[dict[str, Any]]:
    found = [row for table in folder.iterate(folder.samples) for row in table.to_pylist()]
    return sorted(found, key=lambda row: (row["prompt_id"], row["sample_id"]))


def assert_whole(folder: RunFolder) -> None:
    """Every completion once, and each the answer to its own request."""
    found = rows(folder)
    assert [(r["prompt_id"], r["sample_id"]) for r in found] == sorted(
        (p.prompt_id, s) for p in TASK.prompts for s in range(PARAMS.n)
    )
    for row in found:
        seed = row["seed"] >> 11
        assert row["completion"] == f"question {row['prompt_id'][1:]}#{seed}"
        assert row["token_ids"] == [seed % 97, 2]
        assert row["prompt_token_ids"] == [len(f"question {row['prompt_id'][1:]}")]
        assert row["logprobs"] == [-1.0, -0.5]
        assert row["finish_reason"] == "stop"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_PART_ROWS", 30)


def test_nothing_is_lost_and_nothing_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All faults at once, on two servers, with a key that one of them repeats in its messages."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_KEY", KEY)
    first, second = Server.fresh(*FAULTS), Server.fresh("ok", *reversed(FAULTS))
    with serving(first) as one, serving(second) as two:
        opened = engine(one, two, key_variable="THE_KEY", timeout=1.5, retries=8)
        assert opened.describe()["token_ids"]
        sample(opened, opened.ref(), TASK, PARAMS, RunFolder(tmp_path / "run"))
    assert_whole(RunFolder(tmp_path / "run"))
    assert first.keys | second.keys == {f"Bearer {KEY}"}
    assert 1 < max(first.in_flight[1], second.in_flight[1]) <= 6 + len(FAULTS), "given-up requests may linger"
    assert {len(server.seen) > 20 for server in (first, second)} == {True}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = capfd.readouterr()
    for text in (written.decode("latin1"), caplog.text, said.out, said.err, repr(vars(opened)).replace(repr(KEY), "")):
        assert KEY not in text
    assert "base_urls" in (tmp_path / "run" / "run.json").read_text()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone(fault: str) -> None:
    """At every first try; and when it never ends, the error names it and gives up."""
    asked, seeds = ["a", "b"], [[1 << 40, 2 << 40, 3 << 40], [4 << 40]]
    server = Server.fresh(fault)
    with serving(server) as url:
        timeout = 0.3 if fault == "drip" else 10.0
        found = engine(url, timeout=timeout, retries=9).sample(asked, seeds, PARAMS)
    expected = [[f"{text}#{seed >> 11}" for seed in own] for text, own in zip(asked, seeds, strict=True)]
    assert [[c.text for c in own] for own in found] == expected
    if fault == "anothers":
        return
    with serving(Server.fresh(fault, always=True)) as url:
        opened = engine(url, timeout=timeout, retries=1, concurrency=1)
        if fault == "twice":  # each answer is right; the one that follows it is thrown away with its connection
            assert [c.text for c in opened.sample(["a"], [seeds[0]], PARAMS)[0]] == expected[0]
            return
        with pytest.raises(CannotJudge, match=r"completions: no usable answer in 2 tries, the last: .+; what was") as e:
            opened.sample(["a"], [[5 << 40]], PARAMS)
        assert KEY not in str(e.value) or fault == "busy", "without a key of ours, it is only text"
        assert e.value.exit_code == 4
        assert "\n" not in str(e.value)
        assert "\x1b" not in str(e.value)


def test_one_answer_to_two_requests_is_no_answer() -> None:
    """A cache in front of the server would make every sample of a prompt a copy of the first."""

    class Cache(Server):
        def ok(self, asked: dict[str, Any]) -> None:
            name = f"cached-{asked['prompt']}-{asked['max_tokens']}"
            self.reply(200, {**right_answer({**asked, "seed": 1}), "id": name})

    with serving(Cache.fresh()) as url, pytest.raises(CannotJudge, match=r"the same answer \(cached-a-8\) came to"):
        engine(url, retries=1).sample(["a"], [[1, 2]], PARAMS)

    class Unnumbered(Server):
        def ok(self, asked: dict[str, Any]) -> None:
            self.reply(200, {**right_answer(asked), "id": "always-the-same"})

    with serving(Unnumbered.fresh()) as url:
        found = engine(url, concurrency=1).sample(["a"], [[1 << 40, 2 << 40, 1 << 40]], PARAMS)
    assert len(found[0]) == 3, "where numbers mean nothing, equal answers are only equal"


def test_a_dead_server_among_two_costs_nothing_but_time(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with serving(Server.fresh()) as url:
        opened = engine(url, dead)
        sample(opened, opened.ref(), TASK, PARAMS, RunFolder(tmp_path / "run"))
    assert_whole(RunFolder(tmp_path / "run"))
    with pytest.raises(CannotJudge, match=r"no usable answer in 2 tries, the last: ConnectError"):
        engine(dead, retries=1)


def test_a_run_that_a_server_broke_off_is_finished_by_another(tmp_path: Path) -> None:
    """The same content as without the break; what was paid for is not asked again."""
    folder = RunFolder(tmp_path / "run")

    class Dying(Server):
        def ok(self, asked: dict[str, Any]) -> None:
            if len(type(self).seen) > 50:
                return self.broken(asked)
            return super().ok(asked)

    with serving(Dying.fresh()) as url:
        opened = engine(url, retries=1)
        with pytest.raises(CannotJudge, match="and the same command goes on from there"):
            sample(opened, opened.ref(), TASK, PARAMS, folder)
    kept = len(rows(folder))
    assert kept == 30, "one part"
    healthy = Server.fresh()
    with serving(healthy) as url:
        opened = engine(url)
        sample(opened, opened.ref(), TASK, PARAMS, folder)
    assert_whole(folder)
    assert len(healthy.seen) - 1 == 90 - kept, "and one probe"


def test_waits_grow_and_obey_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real = http.asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr(http.asyncio, "sleep", noted)
    with serving(Server.fresh("broken", always=True)) as url:
        opened = ServerEngine(options(url, retries=8, concurrency=1), backoff=0.5)
        waits.clear()
        with pytest.raises(CannotJudge):
            opened.sample(["a"], [[1]], PARAMS)
    waits = [wait for wait in waits if wait]
    assert len(waits) == 8
    assert all(min(60, 0.25 * 2**i) <= wait <= min(60, 0.5 * 2**i) for i, wait in enumerate(waits))

    class Patient(Server):
        def busy(self, asked: dict[str, Any]) -> None:
            self.reply(429, {}, {"Retry-After": "7.5"})

    waits.clear()
    with serving(Patient.fresh("busy")) as url:
        engine(url).sample(["a"], [[1]], PARAMS)
    assert [wait for wait in waits if wait] == [7.5]
    far = "Wed, 21 Oct 2099 07:28:00 GMT"
    assert http._retry_after(far) > 1e9
    assert [http._retry_after(text) for text in ("", "soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT")] == [0] * 5


def test_a_refusal_is_told_once_and_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)

    class Door(Server):
        def do_POST(self) -> None:
            type(self).seen[str(self.asked()), len(type(self).seen)] = 1
            self.reply(401, {"error": {"message": f"Incorrect key\n{KEY}. \x1b[31m See\u202e docs"}})

    door = Door.fresh()
    with serving(door) as url, pytest.raises(OdevalError, match=r"HTTP 401 Incorrect key \[key\]\. ␛\[31m See") as e:
        engine(url, key_variable="THE_KEY")
    assert len(door.seen) == 1, "no other form of request is tried"
    assert KEY not in str(e.value)
    assert e.value.exit_code == 2


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    elsewhere = Server.fresh()

    class Moved(Server):
        target = ""

        def do_POST(self) -> None:
            self.asked()
            self.reply(307, {}, {"Location": f"{type(self).target}/completions"})

    with serving(elsewhere) as target, serving(moved := Moved.fresh()) as url:
        moved.target = target
        with pytest.raises(OdevalError, match="HTTP 307"):
            engine(url, key_variable="THE_KEY")
    assert elsewhere.seen == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"base_urls": ()}, "the engine 'server' needs --base-url, such as http://localhost:8000/v1"),
        ({"base_urls": ("localhost:8000",)}, "--base-url localhost:8000: expected http://HOST:PORT/v1 or"),
        ({"base_urls": ("http://",)}, "--base-url http://: expected"),
        ({"base_urls": (f"http://me:{KEY}@host/v1",)}, "--base-url: holds a user name, a password or a query; give"),
        ({"base_urls": (f"http://host/v1?key={KEY}",)}, "--base-url: holds a user name, a password or a query"),
        ({"key_variable": "NOT_SET"}, "--key-variable NOT_SET: no such environment variable, or it is empty"),
        ({"key_variable": "ODD"}, "--key-variable ODD: holds characters that no HTTP header may hold"),
        ({"concurrency": 0}, "concurrency 0, retries 4, timeout 10: expected at least 1 request at once"),
        ({"timeout": float("nan")}, "timeout nan: expected"),
    ],
)
def test_wrong_settings(change: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", "a\nb")
    with pytest.raises(OdevalError, match=re.escape(text)) as e:
        ServerEngine(replace(options("http://127.0.0.1:1/v1"), **change))
    assert KEY not in str(e.value)


def test_every_request_has_a_connection_of_its_own() -> None:
    """What a server sends late or twice finds nobody who would take it for another answer."""
    ports: list[int] = []

    class Noting(Server):
        def ok(self, asked: dict[str, Any]) -> None:
            ports.append(self.client_address[1])
            super().ok(asked)

    with serving(Noting.fresh()) as url:
        found = engine(url, retries=2, concurrency=2).sample(["a"], [[i << 30 for i in range(40)]], PARAMS)
    assert len({c.text for c in found[0]}) == 40
    assert len(set(ports)) == len(ports) == 42

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import ConfigError, StageError
from infra.llm.requests import CachedClient, Completion, Request, RequestCache
from infra.llm.responses import TransientFault, parse_completion, parse_error, permanent_error
from infra.llm.servers import MAX_GIVEN_UP, MAX_WRONG_MODEL, PROBE_AFTER, Endpoint, Servers, ServersUnavailable
from tests.fake_server import FAULTS, FakeServer, words

JobResult = TypeVar("JobResult")


def run(job: Coroutine[Any, Any, JobResult]) -> JobResult:
    return asyncio.run(job)


def make_request(number: int, **changes: Any) -> Request:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"question {number}"}]
    return Request({"model": "fake", "messages": messages, "temperature": 0.0, **changes})


def servers(*fakes: FakeServer, notes: list[str] | None = None, in_flight: int = 8, **changes: Any) -> Servers:
    endpoints = [Endpoint(url=fake.url, in_flight=in_flight) for fake in fakes]
    tell = (notes if notes is not None else []).append
    quick = {"timeout_s": 30.0, "patience_s": 30.0, "pause_s": 0.01, "max_pause_s": 0.05, "max_bytes": 2**20}
    return Servers(endpoints, tell, **{**quick, **changes})


def answered(fake: FakeServer, requests: list[Request]) -> list[int]:
    return [fake.answered[request.key.hex()] for request in requests]


# -- answers --------------------------------------------------------------------------------------------------------


def test_an_answer_is_what_the_server_said() -> None:
    async def job() -> None:
        async with FakeServer(answer=lambda body: f"it was {body['temperature']}") as fake, servers(fake) as engine:
            answer = await engine.complete(make_request(1))
            assert answer == Completion(("it was 0.0",), ("stop",), "fake", answer.tokens_in, 3, answer.tokens_cached)
            assert 0 < answer.tokens_cached < answer.tokens_in
            assert await engine.models() == {fake.url: ["fake"]}

    run(job())


def test_several_choices_come_in_order() -> None:
    async def job() -> None:
        async with FakeServer(answer=lambda body: f"choice {body.get('choice', 0)}") as fake, servers(fake) as engine:
            answer = await engine.complete(make_request(1, n=3))
            assert answer.texts == ("choice 0", "choice 1", "choice 2") and len(answer.finish) == 3

    run(job())


def completion(**changes: Any) -> bytes:
    choice = {"index": 0, "message": {"content": "text"}, "finish_reason": "length"}
    return json.dumps({"model": "m", "choices": [choice], **changes}).encode()


def test_an_answer_need_not_be_complete_in_what_does_not_matter() -> None:
    assert parse_completion(completion(), 1) == Completion(("text",), ("length",), "m")
    assert parse_completion(completion(usage={"prompt_tokens": None, "prompt_tokens_details": 7}), 1).tokens_in == 0
    empty = {"index": 0, "message": {"content": None}, "finish_reason": None}
    assert parse_completion(completion(choices=[empty]), 1) == Completion(("",), ("",), "m")
    halves = {"index": 0, "message": {"content": "a\ud800b \U0001f600"}}
    assert parse_completion(completion(choices=[halves]), 1).texts == ("a\ufffdb \U0001f600",)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'{"choices": [',
        b"\xff\xfe\x00",
        b"<html></html>",
        b"[" * 100_000,
        b'{"error": {"message": "engine died"}}',
        completion()[:-10],
        completion(choices=[]),
        completion(choices=None),
        completion(choices=[{"index": 0, "message": {"content": 7}}]),
        completion(choices=[{"index": "x", "message": {"content": ""}}]),
        completion(choices=[{"message": {"content": ""}}]),
        completion(choices=[{"index": i, "message": {"content": ""}} for i in range(2)]),
    ],
)
def test_a_malformed_answer_is_a_fault(raw: bytes) -> None:
    with pytest.raises(TransientFault) as caught:
        parse_completion(raw, 1)
    assert caught.value.text.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "index", "model", "usage", "prompt_tokens", "error"]),
            inner,
        )
    ),
)


@given(st.binary() | json_values.map(lambda document: json.dumps(document).encode()))
def test_whatever_comes_back_is_an_answer_or_a_fault_and_can_be_shown(raw: bytes) -> None:
    try:
        answer = parse_completion(raw, 1)
        assert len(answer.texts) == len(answer.finish) == 1 and isinstance(answer.texts[0].encode(), bytes)
    except TransientFault as fault:
        assert fault.text.isprintable() and len(fault.text) < 400
    message, _ = parse_error(raw)
    assert (message.isprintable() or not message) and len(message) <= 300


@pytest.mark.parametrize(
    ("raw", "message", "clear"),
    [
        (b'{"error": {"message": "bad\\u001b[31m schema"}}', "bad [31m schema", True),
        (b'{"object": "error", "message": "old"}', "old", True),
        (b'{"detail": "Not Found"}', "Not Found", True),
        (b"<html><h1>502</h1> Bad\n gateway</html>", "502 Bad gateway", False),
        (b"", "", False),
    ],
)
def test_errors_are_read(raw: bytes, message: str, clear: bool) -> None:
    assert parse_error(raw) == (message, clear)


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "This model's maximum context length is 4096 tokens.", "too_long"),
        (400, "The decoder prompt (length 9000) is longer than the maximum model length of 8192.", "too_long"),
        (400, "max_tokens must be at least 1, got -186.", "too_long"),
        (400, "'max_tokens' or 'max_completion_tokens' is too large: 5000.", "too_long"),
        (400, "invalid grammar: uniqueItems", "refused"),
        (422, "temperature: a number is wanted", "refused"),
        (413, "", "too_long"),
        (500, "maximum context length", None),
        (404, "no such model", None),
        (200, "", None),
    ],
)
def test_faults_that_belong_to_the_request(status: int, message: str, error: str | None) -> None:
    raw = json.dumps({"error": {"message": message}}).encode()
    error_text = permanent_error(status, raw)
    assert error_text is None if error is None else str(error_text).startswith(f"{error}: ")
    assert permanent_error(400, b"<html>a proxy's page</html>") is None


# -- faults that pass -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_every_class_of_faults_is_tried_again(name: str) -> None:
    async def job() -> None:
        # A server that answers as another model again and again is no passing fault.
        share, count = (0.3, 40) if name == "wrong_model" else (1.0, 12)
        requests = [make_request(i) for i in range(count)]
        timeout_s = 1.0 if name == "hang" else 30.0
        async with FakeServer(faults={name: share}) as fake, servers(fake, timeout_s=timeout_s) as engine:
            answers = await asyncio.gather(*map(engine.complete, requests))
            assert [answer.texts for answer in answers] == [(words(dict(request.body)),) for request in requests]
            faulty = sum(fake.fault_of(request.payload, request.key.hex(), 1) is not None for request in requests)
            assert fake.failed[name] >= engine.retries >= faulty > 0
            assert answered(fake, requests) == [1] * count

    run(job())


@pytest.mark.parametrize("name", [*FAULTS, "418"])
def test_a_poison_request_is_given_up_and_costs_the_others_nothing(name: str, tmp_path: Path) -> None:
    async def job() -> None:
        timeout_s = 1.0 if name == "hang" else 30.0
        fake = FakeServer(poison={"question 3": name})
        with RequestCache(tmp_path / "cache") as cache:
            async with fake, servers(fake, tries=3, timeout_s=timeout_s) as engine:
                client = CachedClient(cache, engine)
                requests = [make_request(i) for i in range(3 * 8)]
                await client.complete(requests[0])  # a server that has answered before is not doubted for a 418
                done: list[int] = []

                async def complete_one(number: int) -> Completion:
                    answer = await client.complete(requests[number])
                    done.append(number)
                    return answer

                answers = await asyncio.gather(*map(complete_one, range(len(requests))))
            assert [i for i, answer in enumerate(answers) if answer.error] == [3]
            assert str(answers[3].error).startswith("gave_up: ") and answers[3].texts == ()
            assert client.gave_up == 1 and len(cache) == len(requests) - 1 and cache.get(requests[3].key) is None
            assert fake.received[requests[3].key.hex()] >= 4 and done[-1] == 3
            assert all(fake.received[request.key.hex()] == 1 for i, request in enumerate(requests) if i != 3)

    if name != "wrong_model":  # a server that answers so again and again is not the item's fault: see below
        run(job())


def test_a_probe_distinguishes_a_single_poison_request_from_a_dead_server() -> None:
    async def job() -> None:
        notes: list[str] = []
        async with FakeServer(poison={"question 1": "500"}) as fake, servers(fake, notes=notes, tries=4) as engine:
            answer = await engine.complete(make_request(1))
            assert answer.error == "gave_up: 500: not now"
            assert notes == [] and sum(fake.answered.values()) >= 1  # the probes
            assert fake.received[make_request(1).key.hex()] == 5

    run(job())


def test_failing_every_request_is_a_fault_of_the_server(tmp_path: Path) -> None:
    async def job() -> None:
        with RequestCache(tmp_path / "cache") as cache:
            async with FakeServer(poison={"question": "500"}) as fake, servers(fake, tries=3) as engine:
                client = CachedClient(cache, engine)
                requests = [asyncio.create_task(client.complete(make_request(i))) for i in range(3 * MAX_GIVEN_UP)]
                results = await asyncio.gather(*requests, return_exceptions=True)
                assert sum(isinstance(outcome, Completion) for outcome in results) == client.gave_up == MAX_GIVEN_UP - 1
                unavailable = [outcome for outcome in results if isinstance(outcome, ServersUnavailable)]
                assert len(unavailable) == 2 * MAX_GIVEN_UP + 1 and "although probes succeed: 500" in str(
                    unavailable[0]
                )
            assert len(cache) == 0

    run(job())


def test_all_classes_at_once_nothing_is_lost_and_nothing_comes_twice() -> None:
    async def job() -> None:
        requests = [make_request(i) for i in range(300)]
        async with (
            FakeServer(faults=dict.fromkeys(FAULTS, 0.05)) as first_server,
            FakeServer(faults=dict.fromkeys(FAULTS, 0.05), seed=1) as second_server,
            servers(first_server, second_server, timeout_s=2.0) as engine,
        ):
            answers = await asyncio.gather(*map(engine.complete, requests))
            assert all(answer.error is None for answer in answers)
            assert [
                a + b for a, b in zip(answered(first_server, requests), answered(second_server, requests), strict=True)
            ] == [1] * 300
            assert len({*first_server.failed, *second_server.failed}) == len(FAULTS)

    run(job())


def test_pauses_double_are_bounded_and_come_from_the_key() -> None:
    engine = Servers([Endpoint(url="http://a")], print, pause_s=0.5, max_pause_s=30.0)
    for number, most in [(1, 0.5), (2, 1.0), (6, 16.0), (7, 30.0), (100_000, 30.0)]:
        pauses = [engine._pause(f"key {i}", number) for i in range(50)]
        assert all(most / 2 <= pause <= most for pause in pauses) and len(set(pauses)) == 50
        assert pauses == [engine._pause(f"key {i}", number) for i in range(50)]


# -- the item's own faults ------------------------------------------------------------------------------------------


def test_too_long_and_refused_are_answers_and_kept(tmp_path: Path) -> None:
    async def job() -> None:
        long, bad = make_request(1, max_tokens=5000), make_request(2, messages=[])
        with RequestCache(tmp_path / "cache") as cache:
            async with FakeServer(max_context=4096) as fake, servers(fake) as engine:
                client = CachedClient(cache, engine)
                for _ in range(2):
                    answer = await client.complete(long)
                    assert str(answer.error).startswith("too_long: 400: the maximum context length is 4096")
                    answer = await client.complete(bad)
                    assert answer == Completion((), (), "fake", error="refused: 400: messages: at least one is wanted")
                assert fake.received[long.key.hex()] == fake.received[bad.key.hex()] == 1
                assert (client.sent, client.hits, client.retries, len(cache)) == (2, 2, 0, 2)

    run(job())


@pytest.mark.parametrize(("poison", "error"), [("413", "too_long: 413: not now"), ("422", "refused: 422: not now")])
def test_other_refusals_are_answers_with_their_reason(poison: str, error: str) -> None:
    async def job() -> None:
        async with FakeServer(down=poison) as fake, servers(fake) as engine:
            assert (await engine.complete(make_request(1))).error == error

    run(job())


# -- the endpoint's faults ------------------------------------------------------------------------------------------


def test_an_unknown_model_is_named_with_those_that_are_served() -> None:
    async def job() -> None:
        async with FakeServer(model="tiny-llama") as fake, servers(fake) as engine:
            with pytest.raises(StageError, match="does not serve model 'fake'") as caught:
                await engine.complete(make_request(1))
            assert caught.value.where == fake.url and caught.value.hint == "it serves: tiny-llama"

    run(job())


def test_a_server_that_answers_as_another_model_is_not_believed() -> None:
    async def job() -> None:
        async with FakeServer(model="tiny-llama", lenient=True) as fake, servers(fake) as engine:
            with pytest.raises(StageError, match="requested model 'fake', the server answers as 'tiny-llama'"):
                await engine.complete(make_request(1))
            assert sum(fake.answered.values()) == 1
        # One that lists the model, and yet never answers as it.
        async with FakeServer(faults={"wrong_model": 1.0}, in_a_row=1000) as fake, servers(fake) as engine:
            with pytest.raises(StageError, match="answers as 'another-model'"):
                await asyncio.gather(*(engine.complete(make_request(i)) for i in range(2 * MAX_WRONG_MODEL)))

    run(job())


def test_api_keys_are_sent_and_missing_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def job() -> None:
        async with FakeServer(api_key="secret") as fake:
            endpoint = Endpoint(url=f"{fake.url}/v1/", api_key_env="FAKE_KEY")
            async with Servers([Endpoint(url=fake.url)], print) as engine:
                with pytest.raises(StageError, match="401: no key") as caught:
                    await engine.complete(make_request(1))
                assert "api_key_env" in caught.value.hint
            with pytest.raises(ConfigError, match="FAKE_KEY"):
                await Servers([endpoint], print).__aenter__()
            monkeypatch.setenv("FAKE_KEY", "mistyped")
            async with Servers([endpoint], print) as engine:
                with pytest.raises(StageError) as caught:
                    await engine.complete(make_request(1))
                assert "mistyped" not in str(caught.value)
            monkeypatch.setenv("FAKE_KEY", "secret")
            async with Servers([endpoint], print) as engine:
                assert (await engine.complete(make_request(1))).error is None

    run(job())


def test_a_wrong_path_is_an_error_at_once() -> None:
    async def job() -> None:
        async with FakeServer() as fake, Servers([Endpoint(url=f"{fake.url}/api")], print) as engine:
            with pytest.raises(StageError, match="404") as caught:
                await engine.complete(make_request(1))
            assert "address" in caught.value.hint and await engine.models() == {f"{fake.url}/api": None}

    run(job())


def test_without_endpoints_there_is_nothing_to_ask() -> None:
    with pytest.raises(ConfigError, match="no server"):
        run(Servers([], print).__aenter__())


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host", "http://", "http://me:secret@host", "http://host/v1?key=1", "http://host/#a"]
)
def test_invalid_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Endpoint(url=url)


def test_addresses_are_accepted_with_and_without_v1() -> None:
    for url in ("http://host:8000", "http://host:8000/", "http://host:8000/v1", "http://host:8000/v1/"):
        assert Endpoint(url=url).url == "http://host:8000"
    with pytest.raises(ValidationError):
        Endpoint(url="http://host", in_flight=0)


# -- dead servers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["500", "503", "reset", "html", "404", "closed"])
def test_a_dead_endpoint_is_left_out_and_tried_again(how: str) -> None:
    async def job() -> None:
        notes: list[str] = []
        alive, sick = FakeServer(delay_s=0.002), FakeServer(delay_s=0.002)
        async with alive, sick:
            async with servers(alive, sick, notes=notes) as engine:
                await asyncio.gather(*(engine.complete(make_request(i)) for i in range(100)))
                assert alive.answered.total() > 20 and sick.answered.total() > 20 and notes == []
                if how == "closed":
                    await sick.__aexit__(None, None, None)
                else:
                    sick.down = how
                answers = await asyncio.gather(*(engine.complete(make_request(i)) for i in range(100, 400)))
                assert all(answer.error is None for answer in answers)
                assert sum(sick.url in line and "out of rotation" in line for line in notes) == 1
                # Those in flight when it died, and a few more before it was noticed; then probes only.
                assert sum(sick.received[make_request(i).key.hex()] for i in range(100, 400)) <= 24
                if how == "closed":
                    sick = await FakeServer(port=sick.port).__aenter__()
                sick.down = None
                while not any("answers again" in line for line in notes):
                    await asyncio.sleep(0.01)
                fresh = sick.answered.total()
                await asyncio.gather(*(engine.complete(make_request(i)) for i in range(400, 500)))
                assert sick.answered.total() - fresh > 20
            if how == "closed":
                await sick.__aexit__(None, None, None)

    run(job())


@pytest.mark.parametrize("how", ["closed", "503", "hang"])
def test_when_none_answers_it_says_so_and_stops(how: str, tmp_path: Path) -> None:
    async def job() -> None:
        notes: list[str] = []
        first_server, second_server = FakeServer(), FakeServer()
        with RequestCache(tmp_path / "cache") as cache:
            async with first_server, second_server:
                settings = {"timeout_s": 0.5 if how == "hang" else 30.0, "patience_s": 0.5}
                async with servers(first_server, second_server, notes=notes, in_flight=2, **settings) as engine:
                    client = CachedClient(cache, engine)
                    assert (await client.complete(make_request(0))).error is None
                    if how == "closed":
                        await first_server.__aexit__(None, None, None)
                        await second_server.__aexit__(None, None, None)
                    else:
                        first_server.down = second_server.down = how
                    requests = [asyncio.create_task(client.complete(make_request(i))) for i in range(50)]
                    results = await asyncio.gather(*requests, return_exceptions=True)
                    assert isinstance(results[0], Completion)  # from the cache
                    for outcome in results[1:]:
                        assert isinstance(outcome, ServersUnavailable)
                        assert first_server.url in str(outcome) and second_server.url in str(outcome)
                        assert {"closed": "Connect", "503": "503", "hang": "no answer"}[how] in str(outcome)
                    with pytest.raises(ServersUnavailable):
                        await client.complete(make_request(99))
                    assert sum("no server answers" in line for line in notes) == 1
            assert len(cache) == 1

    run(job())


def test_servers_that_come_back_in_time_are_waited_for() -> None:
    async def job() -> None:
        notes: list[str] = []
        fake = FakeServer()
        async with fake:
            pass  # a port that nobody listens at
        async with servers(fake, notes=notes, in_flight=2, tries=0) as engine:  # no request is blamed for the silence
            requests = [asyncio.create_task(engine.complete(make_request(i))) for i in range(20)]
            while not notes:
                await asyncio.sleep(0.01)
            async with fake:
                answers = await asyncio.gather(*requests)
                assert all(answer.error is None for answer in answers)
                assert answered(fake, [make_request(i) for i in range(20)]) == [1] * 20
        assert "no server answers" in notes[0] and "answers again" in notes[-1]

    run(job())


def test_a_server_that_refuses_its_key_after_a_while_is_left_out_and_not_the_items_fault() -> None:
    async def job() -> None:
        async with FakeServer() as fake, servers(fake, patience_s=0.3) as engine:
            assert (await engine.complete(make_request(0))).error is None
            fake.api_key = "changed"
            with pytest.raises(ServersUnavailable, match="401"):
                await engine.complete(make_request(1))

    run(job())


# -- slots ----------------------------------------------------------------------------------------------------------


def test_each_endpoint_is_bounded_and_loaded_by_its_bound() -> None:
    async def job() -> None:
        async with FakeServer(delay_s=0.02) as small, FakeServer(delay_s=0.02) as large:
            endpoints = [Endpoint(url=small.url, in_flight=3), Endpoint(url=large.url, in_flight=12)]
            async with Servers(endpoints, print) as engine:
                await asyncio.gather(*(engine.complete(make_request(i)) for i in range(5)))
                assert small.received.total() == 1 and large.received.total() == 4
                await asyncio.gather(*(engine.complete(make_request(i)) for i in range(5, 155)))
                assert small.most_in_flight == 3 and large.most_in_flight == 12
                assert 20 <= small.received.total() <= 50

    run(job())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=30))
def test_cancelling_leaves_every_slot_free(cancelled: list[tuple[int, int]]) -> None:
    async def job() -> None:
        async with FakeServer(delay_s=0.001) as fake, servers(fake, in_flight=3) as engine:
            tasks = [asyncio.create_task(engine.complete(make_request(i))) for i in range(31)]
            for number, rounds in cancelled:
                for _ in range(rounds):
                    await asyncio.sleep(0)
                tasks[number].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            unavailable = {number for number, _ in cancelled}
            assert all(isinstance(outcome, Completion) for i, outcome in enumerate(results) if i not in unavailable)
            assert [state.busy for state in engine._states] == [0] and not engine._balancer.waiters
            assert fake.most_in_flight <= 3
            await asyncio.gather(*(engine.complete(make_request(i)) for i in range(100, 106)))

    run(job())


def test_a_slot_given_to_one_who_was_just_cancelled_goes_on() -> None:
    async def job() -> None:
        async with FakeServer() as fake, servers(fake, in_flight=1) as engine:

            async def first() -> None:
                await engine.complete(make_request(0))  # whose slot is now the second's, who does not know yet
                second.cancel()

            tasks = [asyncio.create_task(first())]
            await asyncio.sleep(0)
            second = asyncio.create_task(engine.complete(make_request(1)))
            results = await asyncio.gather(*tasks, second, return_exceptions=True)
            assert isinstance(results[1], asyncio.CancelledError) and fake.received[make_request(1).key.hex()] == 0
            assert [state.busy for state in engine._states] == [0]

    run(job())


def test_a_cancelled_request_is_cancelled_at_the_server_too() -> None:
    async def job() -> None:
        async with FakeServer(delay_s=3600.0) as fake, servers(fake) as engine:
            tasks = [asyncio.create_task(engine.complete(make_request(i))) for i in range(4)]
            while fake.in_flight < 4:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            while fake.in_flight:
                await asyncio.sleep(0.01)
            assert fake.answered.total() == 0

    run(job())


def test_one_fault_alone_sends_no_probe() -> None:
    async def job() -> None:
        async with FakeServer(faults={"500": 1.0}, in_a_row=1) as fake, servers(fake, in_flight=1) as engine:
            for number in range(PROBE_AFTER - 1):
                await engine.complete(make_request(number))
            assert set(fake.received) == {make_request(number).key.hex() for number in range(PROBE_AFTER - 1)}

    run(job())

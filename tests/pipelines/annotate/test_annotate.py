from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.beam import Runner
from infra.errors import ConfigError, StageError
from infra.llm.requests import Request, RequestCache
from pipelines import cli, stages
from pipelines.core.run import Run
from pipelines.demo import film
from pipelines.tools import show
from tests import corpus
from tests.answers import answer_from_evidence
from tests.fake_server import Running, running
from tests.tiny import read_json_of, rows

VIDEOS = 24
SERVER = ("--answer", "tests.answers:answer_from_evidence")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    first = corpus.write_clip(folder / "v00.mp4", 1)
    for i in range(VIDEOS):
        path = folder / f"v{i:02}.mp4"
        if i:
            shutil.copyfile(first, path)
        caption = f"{corpus.caption(i)} Beside it a painter mixes green colours for a wooden fence number {i}."
        setting: dict[str, Any] = {"text": caption}
        if i % 3 == 0:
            setting["dense_captions"] = [
                {"start": 0.2, "end": 0.5, "text": "A tall man opens the heavy door slowly."},
                {"start": 0.6, "end": 1.2, "text": "Two children run through the garden."},
            ]
        path.with_suffix(".json").write_text(json.dumps(setting))
    return folder


@pytest.fixture
def open_videos(videos: Path, tmp_path: Path) -> Callable[..., Run]:
    """Opens a run over the videos: open_videos(name, annotate, workers=1, batch=None)."""

    def open_named(name: str, annotate: Any, workers: int = 1, batch: str | None = None, **changes: Any) -> Run:
        changes = {"units": {"target_rows": 5}, **changes}
        return corpus.open_videos(
            tmp_path, name, videos, annotate, runner=Runner(workers=workers), batch=batch, **changes
        )

    return open_named


@pytest.fixture
def server() -> Iterator[Running]:
    with running(*SERVER) as records:
        yield records


def make_settings(url: str, **more: Any) -> dict[str, Any]:
    return {"model": "fake", "endpoints": [{"url": url, "in_flight": 4}], "patience_s": 20.0, **more}


def run_to_annotate(run: Run) -> Run:
    for stage in ("ingest", "measure", "decide", "annotate"):
        stages.run_stage(run, stage)
    return run


def read_dialogue_files(run: Run) -> dict[str, bytes]:
    root = Path(run.at("dialogues"))
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


def read_records(run: Run) -> list[dict[str, Any]]:
    records = []
    for path in sorted(Path(run.at("shards")).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    records.append(json.load(file))
    return records


def test_without_a_server_the_rules_write_and_every_card_says_so(open_videos: Callable[..., Run]) -> None:
    run = open_videos("rules", {})
    stages.run_all(run)
    records = rows(run, "dialogues")
    assert len(records) == VIDEOS and {row["outcome"] for row in records} == {"accepted"}
    assert {row["generator"] for row in records} == {"rules"} and {row["model"] for row in records} == {""}
    for path in Path(run.at("shards")).glob("*.card.json"):
        card = json.loads(path.read_text())
        assert "by rule" in card["made_by"]["dialogues"] and card["dialogues"]["generators"].keys() == {"rules"}
    by_key = {row["key"]: row for row in records}
    for record in read_records(run):
        turns = [turn for turn in by_key[record["id"]]["turns"] if turn["outcome"] == "accepted"]
        assert record["kind"] == by_key[record["id"]]["kind"] and len(record["conversations"]) == 2 * len(turns)
        assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"] * len(turns)
        assert record["conversations"][0]["value"] == f"<image>\n{turns[0]['question']}"
        assert sum(turn["value"].count("<image>") for turn in record["conversations"]) == 1
    assert "dialogues/_manifest.json" in read_json_of(run, "checksums.json")


def test_a_served_model_writes_them_and_the_card_names_it(open_videos: Callable[..., Run], server: Running) -> None:
    run = open_videos("served", make_settings(server.url, revision="r1", kinds={"conversation": 1, "captioning": 1}))
    stages.run_all(run)
    records = rows(run, "dialogues")
    assert len(records) == VIDEOS
    assert Counter(row["outcome"] for row in records) == {"accepted": VIDEOS}, Counter(row["reason"] for row in records)
    assert {row["kind"] for row in records} == {"conversation", "captioning"}
    turn = records[0]["turns"][0]
    assert turn["evidence"] == ["c1"] and turn["answer"] == records[0]["evidence"][0]["text"]
    assert all(row["tokens_in"] > 0 and row["tokens_out"] > 0 and row["prompt"] for row in records)
    card = json.loads(next(Path(run.at("shards")).glob("*.card.json")).read_text())
    writer = card["made_by"]["dialogues"]
    assert (writer["model"], writer["revision"]) == ("fake", "r1") and set(writer["prompts"]) == {
        "conversation", "captioning",
    }  # fmt: skip
    assert card["dialogues"]["models"] == {"fake": card["dialogues"]["dialogues"]}
    assert card["dialogues"]["blind"]["answerable"] == 0
    asked = [turn for row in records for turn in row["turns"] if turn["blind_rate"] is not None]
    assert asked and all(turn["blind_rate"] == 0.0 for turn in asked)
    again = open_videos("again", make_settings(server.url, revision="r1", kinds={"conversation": 1, "captioning": 1}),
                 store="store-served", workers=2)  # fmt: skip
    before = server.counts()["received"]
    stages.run_all(again)  # another place, two processes, everything from the cache
    assert server.counts()["received"] == before and read_dialogue_files(again) == read_dialogue_files(run)
    assert read_json_of(again, "checksums.json") == read_json_of(run, "checksums.json")


def test_turns_that_are_answered_without_the_video_are_rejected(open_videos: Callable[..., Run]) -> None:
    with running("--answer", "tests.answers:judge_all_right") as knowing:
        run = run_to_annotate(open_videos("blind", make_settings(knowing.url, kinds={"conversation": 1})))
    turns = [turn for row in rows(run, "dialogues") for turn in row["turns"]]
    asked = [turn for turn in turns if turn["blind_rate"] is not None]
    assert asked and all(turn["blind_rate"] == 1.0 and turn["outcome"] == "rejected" for turn in asked)
    assert {turn["reason"].partition(":")[0] for turn in asked} == {"blind_answerable"}
    unasked = make_settings("http://127.0.0.1:1", blind=None, kinds={"conversation": 1})
    run = run_to_annotate(open_videos("unasked", unasked, store="store-blind"))
    assert all(turn["blind_rate"] is None for row in rows(run, "dialogues") for turn in row["turns"])


def test_shares_are_met_where_the_evidence_allows_them(open_videos: Callable[..., Run], server: Running) -> None:
    shares = {"conversation": 3, "temporal_perception": 1, "egocentric": 2, "text_recognition": 2}
    run = run_to_annotate(open_videos("shares", make_settings(server.url, kinds=shares, blind=None)))
    kinds = Counter(row["kind"] for row in rows(run, "dialogues"))
    assert set(kinds) == {"conversation", "temporal_perception"}  # nothing supports the other two
    assert 2 <= kinds["temporal_perception"] <= 8  # a third of the videos have two timed items


def test_killed_anywhere_it_ends_with_the_same_bytes_and_pays_once(
    open_videos: Callable[..., Run], tmp_path: Path
) -> None:
    with running(*SERVER, "--delay", "0.05") as slow:
        calm = run_to_annotate(open_videos("calm", make_settings(slow.url)))
    with running(*SERVER, "--delay", "0.05") as slow:
        run = open_videos("killed", make_settings(slow.url))
        for stage in ("ingest", "measure", "decide"):
            stages.run_stage(run, stage)
        committed: Counter[str] = Counter()
        for kill in range(4):
            command = [sys.executable, "-m", "pipelines.cli", "annotate", str(tmp_path / "killed.yaml"), "--json"]
            process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
            enough = sum(slow.counts()["answered"].values()) + 5 + 3 * kill
            while process.poll() is None and sum(slow.counts()["answered"].values()) < enough:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            with RequestCache(tmp_path / "store-killed" / "requests.sqlite") as cache:
                received = slow.counts()["received"]
                for key in received:
                    if cache.get(bytes.fromhex(key)) is not None:
                        committed.setdefault(key, received[key])
        lock = Path(run.at(".lock"))
        lock.unlink(missing_ok=True)
        stages.run_stage(run, "annotate")
        received = slow.counts()["received"]
        assert all(received[key] == times for key, times in committed.items())
        assert sum(received.values()) - len(received) <= 4 * 4
    assert read_dialogue_files(run) == read_dialogue_files(calm)


def test_batch_files_go_out_and_come_back_until_nothing_waits(
    open_videos: Callable[..., Run], server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = run_to_annotate(open_videos("live", make_settings(server.url, model="fake")))
    folder = tmp_path / "batch"
    annotate = {name: setting for name, setting in make_settings(server.url).items() if name != "endpoints"}
    run = open_videos("batched", annotate, batch=str(folder))
    for stage in ("ingest", "measure", "decide"):
        stages.run_stage(run, stage)
    for number in range(6):
        try:
            stages.run_stage(run, "annotate")
            break
        except StageError as error:
            assert "wait for their answers" in str(error)
        lines = [json.loads(line) for path in sorted(folder.glob("requests-*")) for line in path.open()]
        assert lines and all(line["method"] == "POST" and line["url"] == "/v1/chat/completions" for line in lines)
        assert all(Request(line["body"]).key.hex() == line["custom_id"] for line in lines)
        with (folder / f"answers-{number}.jsonl").open("w") as out:
            for i, line in enumerate(lines):
                if number == 0 and i == 1:  # its copy was cut
                    out.write(json.dumps({"custom_id": line["custom_id"], "response": {}})[:-30] + "\n")
                    continue
                if number == 0 and i == 0:  # the service failed at one: it is asked again
                    answer: dict[str, Any] = {"status_code": 500, "body": {"error": {"message": "oops"}}}
                else:
                    answer = {"status_code": 200, "body": completion(line["body"])}
                out.write(json.dumps({"custom_id": line["custom_id"], "response": answer, "error": None}) + "\n")
    assert number >= 3  # dialogues, blind questions, judgements, and a round more for what had failed
    assert f"the first is {folder}/answers-0.jsonl:2" in capsys.readouterr().err
    strip = ("tokens_in", "tokens_out")
    assert [{k: v for k, v in row.items() if k not in strip} for row in rows(run, "dialogues")] == [
        {k: v for k, v in row.items() if k not in strip} for row in rows(live, "dialogues")
    ]


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """As vLLM's run-batch writes it."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": answer_from_evidence(body)}, "finish_reason": "stop"}
        for i in range(body.get("n", 1))
    ]
    return {"model": body["model"], "choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def test_an_invalid_answer_is_a_row_with_its_reason(open_videos: Callable[..., Run]) -> None:
    with running("--chars", "300") as babbling:  # made-up words, no JSON
        run = run_to_annotate(open_videos("babble", make_settings(babbling.url)))
    records = rows(run, "dialogues")
    assert len(records) == VIDEOS and {row["outcome"] for row in records} == {"rejected"}
    assert {row["reason"].partition(":")[0] for row in records} == {"not_json"}
    stages.run_stage(run, "export")
    assert {record["kind"] for record in read_records(run)} == {"caption"}  # the caption is still there to train on
    card = json.loads(next(Path(run.at("shards")).glob("*.card.json")).read_text())
    assert card["dialogues"]["accepted"] == 0 and set(card["dialogues"]["rejected"]) == {"not_json"}


def test_one_bad_sample_costs_no_other_and_is_asked_again_by_the_next_run(open_videos: Callable[..., Run]) -> None:
    with running(*SERVER, "--poison", "fence number 7.=500") as sick:
        run = run_to_annotate(open_videos("sick", make_settings(sick.url, tries=2, blind=None)))
    records = rows(run, "dialogues")
    bad = [row for row in records if row["outcome"] == "rejected"]
    assert len(records) == VIDEOS and len(bad) == 1 and bad[0]["reason"].startswith("gave_up")
    with running(*SERVER) as well:
        again = open_videos("sick", make_settings(well.url, tries=2, blind=None))
        stages.run_stage(again, "annotate")
        assert sum(well.counts()["received"].values()) == 1
    assert {row["outcome"] for row in rows(again, "dialogues")} == {"accepted"}


def test_faults_of_every_class_lose_nothing(open_videos: Callable[..., Run], server: Running) -> None:
    calm = run_to_annotate(open_videos("without", make_settings(server.url)))
    with running(*SERVER, "--faults", "0.05") as faulty:
        run = run_to_annotate(open_videos("faulty", make_settings(faulty.url, timeout_s=2.0)))
        assert sum(faulty.counts()["faults"].values()) > 5
    assert read_dialogue_files(run) == read_dialogue_files(calm)


def test_without_any_endpoint_the_job_stops_and_answers_are_kept(
    open_videos: Callable[..., Run], capfd: pytest.CaptureFixture[str]
) -> None:
    run = open_videos("gone", make_settings("http://127.0.0.1:1", patience_s=0.5))
    with pytest.raises(StageError, match=r"127\.0\.0\.1:1"):
        run_to_annotate(run)
    assert "127.0.0.1:1" in capfd.readouterr().err


def test_a_captioner_is_shown_frames_and_its_words_are_evidence(
    open_videos: Callable[..., Run], server: Running
) -> None:
    eyes = {"model": "fake", "endpoints": [{"url": server.url}], "every_s": 0.2, "frames": 2, "size": 64}
    run = run_to_annotate(open_videos("eyes", make_settings(server.url, captioner=eyes, blind=None)))
    dense = [item for row in rows(run, "dialogues") for item in row["evidence"] if item["kind"] == "dense"]
    assert sum("red ball" in item["text"] for item in dense) >= VIDEOS
    assert all(item["start_s"] is not None and item["end_s"] > item["start_s"] for item in dense)


def test_captions_that_the_captioner_refuses_are_counted(
    open_videos: Callable[..., Run], server: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(*SERVER, "--max-context", "100") as small:
        eyes = {"model": "fake", "endpoints": [{"url": small.url}], "max_captions": 1, "frames": 2, "size": 64}
        run = run_to_annotate(open_videos("small", make_settings(server.url, captioner=eyes, blind=None)))
    line = f"evidence lacks {VIDEOS} captions that the captioner was to write: too_long {VIDEOS}"
    assert line in capfd.readouterr().err
    assert not [item for row in rows(run, "dialogues") for item in row["evidence"] if "red ball" in item["text"]]


def test_a_video_that_was_away_is_shown_to_the_captioner_by_the_next_run(
    open_videos: Callable[..., Run], server: Running, tmp_path: Path
) -> None:
    eyes = {"model": "fake", "endpoints": [{"url": server.url}], "every_s": 0.2, "frames": 2, "size": 64}
    run = open_videos("away", make_settings(server.url, captioner=eyes, blind=None))
    for stage in ("ingest", "measure", "decide"):
        stages.STAGES[stage](run)
    kept = [row["outcome"] == "kept" for row in rows(run, "verdicts")]
    name = rows(run, "samples")[kept.index(True)]["container"]
    path = Path(run.config.sources[0].path) / name
    path.rename(tmp_path / "away.mp4")
    try:
        stages.STAGES["annotate"](run)
    finally:
        (tmp_path / "away.mp4").rename(path)
    assert any(not _dense_captions(row) for row in rows(run, "dialogues"))
    stages.STAGES["annotate"](run)
    assert all(map(_dense_captions, rows(run, "dialogues")))


def _dense_captions(row: dict[str, Any]) -> list[str]:
    return [item["text"] for item in row["evidence"] if item["kind"] == "dense" and "red ball" in item["text"]]


def test_rationales_and_several_candidates(open_videos: Callable[..., Run], server: Running) -> None:
    run = run_to_annotate(
        open_videos(
            "more", make_settings(server.url, kinds={"reasoning": 1}, candidates=3, rationales=True, blind=None)
        )
    )
    records = [row for row in rows(run, "dialogues") if row["outcome"] == "accepted"]
    assert records and {row["candidates"] for row in records} == {3}


def test_images_with_text_in_them_get_questions_about_it(open_videos: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "signs"
    folder.mkdir()
    for i, words in enumerate(("OPEN DAILY", "MIND THE STEP", "")):
        picture = film.lettering(words, 40, (0, 0, 0), (250, 250, 250)) if words else corpus.picture(3, 240, 120)
        (folder / f"{i}.png").write_bytes(corpus.image_bytes(picture, "PNG"))
        (folder / f"{i}.txt").write_text(corpus.caption(i))
    sources = [{"name": "signs", "path": str(folder), "modality": "image"}]
    run = open_videos("signs", {"ocr_questions": True}, sources=sources, measure={"late": ["overlay"]})
    stages.run_all(run)
    records = rows(run, "dialogues")
    assert len(records) == 2 and {row["kind"] for row in records} == {"image_text"}
    answer_text = " ".join(turn["answer"] for row in records for turn in row["turns"]).upper()
    assert "OPEN DAILY" in answer_text and "STEP" in answer_text
    assert Counter(record["kind"] for record in read_records(run)) == {"image_text": 2, "caption": 1}


@pytest.mark.parametrize(
    ("annotate", "what"),
    [
        ({"kinds": {"sonnets": 1}}, "there is no kind 'sonnets'"),
        ({"kinds": {"conversation": -1}}, "negative"),
        ({"kinds": {"conversation": 0}}, "no kind has a positive share"),
        ({"endpoints": [{"url": "localhost:8000"}]}, "http://HOST:PORT"),
        ({"endpoint": []}, "did you mean 'endpoints'"),
    ],
)
def test_a_wrong_config_starts_no_work(open_videos: Callable[..., Run], annotate: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        open_videos("wrong", annotate)


def test_a_model_that_no_endpoint_serves_is_an_error(open_videos: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match="nothing serves fake"):
        run_to_annotate(open_videos("unserved", {"model": "fake"}))


def test_annotate_without_its_key_says_what_to_write(open_videos: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match="nothing to annotate"):
        run_to_annotate(open_videos("none", None))


def test_show_prints_dialogues_with_their_evidence(
    open_videos: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_to_annotate(open_videos("shown", {}))
    show.show(show.run(run.out, count=2, kind=None, rejected=False), run.out)
    out = capsys.readouterr().out
    picked = show.run(run.out, count=2, kind=None, rejected=False)
    assert len(picked) == 2 and all(row["key"] in out for row in picked) and "c1" in out and "written by rule" in out
    assert show.run(run.out, count=2, kind=None, rejected=False) == picked
    assert show.run(run.out, count=9, kind=None, rejected=True) == []


def test_doctor_proves_structured_output(
    open_videos: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.tools.doctor_servers import check_servers

    with running("--answer", "tests.pipelines.annotate.test_annotate:answer_by_schema") as server:
        run = open_videos("doctor", make_settings(server.url))
        endpoints = yaml.safe_load(Path(tmp_path / "doctor.yaml").read_text())["annotate"]["endpoints"]
        assert endpoints[0]["url"] == server.url
        from pipelines.core.resolve import resolve

        asked = resolve(run).annotate.endpoints
        assert check_servers(asked, "fake")[0]["ok"] and "honoured" in check_servers(asked, "fake")[0]["detail"]
        another = check_servers(asked, "other")[0]
        assert not another["ok"] and "serves fake" in another["detail"]
    with running(*SERVER) as ignoring:  # answers 200, and as if no schema had been given
        asked = resolve(open_videos("doctor2", make_settings(ignoring.url))).annotate.endpoints
        assert not check_servers(asked, "fake")[0]["ok"] and "not honoured" in check_servers(asked, "fake")[0]["detail"]
    unreachable = check_servers(asked, "fake")[0]
    assert not unreachable["ok"] and "does not answer" in unreachable["detail"]
    monkeypatch.setattr(sys, "argv", ["reelmill", "doctor", str(tmp_path / "doctor2.yaml"), "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    findings = {
        finding["name"]: finding
        for finding in json.loads(capsys.readouterr().out)["findings"]
        if finding["name"] == "annotate"
    }
    assert not findings["annotate"]["ok"]


def answer_by_schema(body: dict[str, Any]) -> str:
    schema = body["response_format"]["json_schema"]["schema"]
    return json.dumps({name: setting["enum"][0] for name, setting in schema["properties"].items()})


def test_the_fingerprint_of_the_rules_covers_all_that_they_read() -> None:
    from pipelines.annotate.annotate import fingerprint_inputs
    from pipelines.annotate.settings import AnnotateSettings

    plain = fingerprint_inputs(AnnotateSettings())
    captioner = {"model": "v", "endpoints": [{"url": "http://localhost:1"}]}
    assert fingerprint_inputs(AnnotateSettings(ocr_questions=True)) != plain
    assert fingerprint_inputs(AnnotateSettings(captioner=captioner)) != plain
    assert fingerprint_inputs(AnnotateSettings(candidates=4, rationales=True, blind=None, revision="x")) == plain
    elsewhere = {**captioner, "endpoints": [{"url": "http://localhost:2", "in_flight": 3}]}
    assert fingerprint_inputs(AnnotateSettings(captioner=elsewhere)) == fingerprint_inputs(
        AnnotateSettings(captioner=captioner)
    )


def test_batch_files_are_refused_where_rules_write(open_videos: Callable[..., Run], tmp_path: Path) -> None:
    run = open_videos("rulesbatch", {}, batch=str(tmp_path / "files"))
    for stage in ("ingest", "measure", "decide"):
        stages.run_stage(run, stage)
    with pytest.raises(ConfigError, match="--batch has no requests to write"):
        stages.run_stage(run, "annotate")


def test_processes_share_what_an_endpoint_may_have_in_flight() -> None:
    from infra.llm.servers import Endpoint
    from pipelines.annotate.llm_client import share_endpoints

    endpoints = [Endpoint(url="http://a", in_flight=9), Endpoint(url="http://b", in_flight=1)]
    assert [e.in_flight for e in share_endpoints(endpoints, 4)] == [2, 1]
    assert [e.in_flight for e in share_endpoints(endpoints, 1)] == [9, 1]

"""What serves the model: files that agree with each other, with vLLM, with Kubernetes and with docs/serving.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.deploy.vllm.base import guard

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / "infra" / "deploy" / "vllm"
DOC = (ROOT / "docs" / "serving.md").read_text("utf-8")
VERSION = "0.32.0"
IMAGE = f"vllm/vllm-openai:v{VERSION}"
FOLDERS = ("base", "h200", "h100x2", "weights")
OVERLAYS = {"h200": 1, "h100x2": 2}

#: Options of `vllm serve` 0.32.0 with what they take, from its EngineArgs, FrontendArgs and their configs
#: (https://docs.vllm.ai/en/stable/configuration/serve_args/, vllm/engine/arg_utils.py and
#: vllm/entrypoints/launchers/cli_args.py); the file was also read by that version's own parser.
FLAGS: dict[str, type] = {
    "api-key": list,
    "chat-template": str,
    "config": str,
    "disable-access-log-for-endpoints": str,
    "disable-fastapi-docs": bool,
    "dtype": str,
    "enable-prefix-caching": bool,
    "enable-prompt-tokens-details": bool,
    "enforce-eager": bool,
    "generation-config": str,
    "gpu-memory-utilization": float,
    "host": str,
    "kv-cache-dtype": str,
    "max-model-len": int,
    "max-num-batched-tokens": int,
    "max-num-seqs": int,
    "middleware": list,
    "port": int,
    "quantization": str,
    "served-model-name": str,
    "shutdown-timeout": int,
    "structured-outputs-config": dict,
    "tensor-parallel-size": int,
}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def read_document(name: str) -> Any:
    (document,) = documents(VLLM / name)
    return document


SERVE = read_document("base/serve.yaml")
SET = read_document("base/statefulset.yaml")
POD = SET["spec"]["template"]["spec"]
(SERVER,) = POD["containers"]
JOB = read_document("weights/fetch.yaml")
(FETCH,) = JOB["spec"]["template"]["spec"]["containers"]
COMPOSE = read_document("compose.yaml")["services"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s")) if text.endswith("s") else 60 * int(text.removesuffix("m"))


def variables(container: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(VLLM.rglob("*.yaml")), ids=lambda path: str(path.relative_to(VLLM)))
def test_every_file_parses_and_has_no_key_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{path}: {keys}"
        return loader.construct_mapping(node)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert all(document for document in yaml.load_all(path.read_text("utf-8"), Strict))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_names_each_file_beside_it(folder: str) -> None:
    kustomization = read_document(f"{folder}/kustomization.yaml")
    named = {*kustomization.get("resources", ()), *(p["path"] for p in kustomization.get("patches", ()) if "path" in p)}
    for generator in kustomization.get("configMapGenerator", ()):
        named |= set(generator["files"])
    there = {path.name for path in (VLLM / folder).iterdir() if path.is_file()} - {"kustomization.yaml", "__init__.py"}
    assert {name for name in named if not name.startswith("..")} == there
    assert kustomization["namespace"] == "reelmill"


def test_the_documents_name_every_file() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in VLLM.rglob("*") if path.is_file()}
    named = set(re.findall(r"`(infra/deploy/vllm/[\w./]+\.\w+|infra/deploy/vllm/\w*Dockerfile)`", DOC))
    assert named == {name for name in files if "__" not in name}


# -- kustomize --------------------------------------------------------------------------------------------------


def kustomize() -> list[str] | None:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else None


def build_overlay(folder: str) -> dict[str, Any]:
    """The objects of an overlay by kind, as kustomize merges them."""
    command = kustomize()
    if command is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    process = subprocess.run([*command, str(VLLM / folder)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    objects = list(yaml.safe_load_all(process.stdout))
    by_kind = {manifest["kind"]: manifest for manifest in objects}
    assert len(by_kind) == len(objects)
    assert all(manifest["metadata"]["namespace"] == "reelmill" for manifest in objects)
    return by_kind


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_adds_gpus_and_nothing_else(overlay: str) -> None:
    objects = build_overlay(overlay)
    assert set(objects) == {"StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"}
    pod = objects["StatefulSet"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    gpus = OVERLAYS[overlay]
    assert server["args"] == [*SERVER["args"], f"--tensor-parallel-size={gpus}"]
    assert server["resources"]["limits"].pop("nvidia.com/gpu") == str(gpus)
    assert objects["StatefulSet"]["spec"]["replicas"] > 1
    assert set(pod.pop("nodeSelector")) == {"nvidia.com/gpu.product"}
    config = objects["ConfigMap"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "config"]
    assert volume["configMap"].pop("name") == config["metadata"]["name"] != "llama-config"
    assert yaml.safe_load(config["data"]["serve.yaml"]) == SERVE
    assert config["data"]["guard.py"] == (VLLM / "base" / "guard.py").read_text("utf-8")
    base = json.loads(json.dumps(POD))
    base["containers"][0].pop("args")
    server.pop("args")
    next(volume for volume in base["volumes"] if volume["name"] == "config")["configMap"].pop("name")
    assert pod == base


def test_the_weights_are_built_alone() -> None:
    assert set(build_overlay("weights")) == {"PersistentVolumeClaim", "Job"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_patch_what_the_base_has(overlay: str) -> None:
    # The same without kustomize: names that a merge goes by.
    kustomization = read_document(f"{overlay}/kustomization.yaml")
    patch = read_document(f"{overlay}/gpus.yaml")
    assert kustomization["resources"] == ["../base"]
    assert (patch["kind"], patch["metadata"]["name"]) == (SET["kind"], SET["metadata"]["name"])
    assert [c["name"] for c in patch["spec"]["template"]["spec"]["containers"]] == [SERVER["name"]]
    (inline,) = [p for p in kustomization["patches"] if "patch" in p]
    assert inline["target"] == {"kind": SET["kind"], "name": SET["metadata"]["name"]}
    (operation,) = yaml.safe_load(inline["patch"])
    assert operation["path"] == "/spec/template/spec/containers/0/args/-"
    gpus = patch["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert operation["value"] == f"--tensor-parallel-size={gpus}" == f"--tensor-parallel-size={OVERLAYS[overlay]}"
    assert [r["name"] for r in kustomization["replicas"]] == [SET["metadata"]["name"]]


# -- vLLM -------------------------------------------------------------------------------------------------------


def test_settings_are_options_of_vllm_with_values_of_their_kind() -> None:
    for name, setting in SERVE.items():
        assert name in FLAGS, f"vLLM {VERSION} has no --{name}"
        assert type(setting) is FLAGS[name], name


def commands() -> Iterator[tuple[str, list[str]]]:
    yield "statefulset.yaml", SERVER["args"]
    yield "compose.yaml", COMPOSE["vllm"]["command"]
    lines = (VLLM / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^CMD (\[.*\])$", lines, re.M)
    yield "Dockerfile", json.loads(command)


@pytest.mark.parametrize(("name", "command"), commands())
def test_commands_give_the_weights_then_the_file_in_two_words(name: str, command: list[str]) -> None:
    model, config, path, *rest = command
    assert (config, path) == ("--config", "/etc/reelmill/serve.yaml")
    for option in rest:
        assert option.startswith("--")
        assert option[2:].split("=")[0] in FLAGS
    assert model == f"/models/{variables(FETCH)['REPOSITORY']}/{variables(FETCH)['REVISION']}"


def test_the_revision_is_a_commit_and_the_same_everywhere() -> None:
    revision = variables(FETCH)["REVISION"]
    assert re.fullmatch(r"[0-9a-f]{40}", revision)
    assert COMPOSE["weights"]["environment"]["REVISION"] == revision
    assert COMPOSE["weights"]["environment"]["REPOSITORY"] == variables(FETCH)["REPOSITORY"]
    assert f"{variables(FETCH)['REPOSITORY']}@{revision}" in DOC
    assert SERVE["served-model-name"] == "meta-llama/Llama-3.1-70B-Instruct"


def test_one_image_is_pinned_everywhere() -> None:
    images = {SERVER["image"], FETCH["image"], COMPOSE["vllm"]["image"], COMPOSE["weights"]["image"]}
    assert images == {IMAGE}
    assert re.findall(r"^FROM (.*)$", (VLLM / "Dockerfile").read_text("utf-8"), re.M) == [IMAGE]
    for path in VLLM.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert ":latest" not in path.read_text("utf-8"), path
    assert f"vLLM {VERSION}" in DOC


def test_structured_output_is_pinned() -> None:
    assert SERVE["structured-outputs-config"] == {"backend": "guidance", "disable_any_whitespace": True}
    assert SERVE["enable-prefix-caching"] is True
    assert SERVE["generation-config"] == "vllm"


def test_the_environment_is_the_same_in_pod_compose_and_image() -> None:
    pod = variables(SERVER)
    assert pod["PYTHONPATH"] == "/etc/reelmill"
    assert SERVE["middleware"] == ["guard.Guard"]
    composed = {name: setting for name, setting in COMPOSE["vllm"]["environment"].items() if name != "VLLM_API_KEY"}
    text = (VLLM / "Dockerfile").read_text("utf-8")
    (block,) = re.findall(r"^ENV (.*?)\n\n", text, re.M | re.S)
    image = dict(word.split("=", 1) for word in block.replace("\\\n", " ").split())
    cache = pod.pop("VLLM_CACHE_ROOT")
    assert pod == composed == image
    assert any(cache.startswith(mount["mountPath"] + "/") for mount in SERVER["volumeMounts"])


# -- names, ports, times ----------------------------------------------------------------------------------------


def test_names_and_labels_fit() -> None:
    service, budget, policy = (
        read_document("base/service.yaml"),
        read_document("base/disruption.yaml"),
        read_document("base/network.yaml"),
    )
    label = SET["spec"]["template"]["metadata"]["labels"]
    assert SET["spec"]["selector"]["matchLabels"] == label
    assert service["spec"]["selector"] == label
    assert budget["spec"]["selector"]["matchLabels"] == label
    assert policy["spec"]["podSelector"]["matchLabels"] == label
    assert SET["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    # vLLM reads VLLM_*, which Kubernetes sets for a Service of that name.
    assert service["metadata"]["name"] != "vllm"
    assert POD["enableServiceLinks"] is False


def test_the_port_is_the_same_everywhere() -> None:
    (port,) = SERVER["ports"]
    (exposed,) = read_document("base/service.yaml")["spec"]["ports"]
    (rule,) = read_document("base/network.yaml")["spec"]["ingress"]
    assert port["containerPort"] == SERVE["port"] == exposed["port"]
    assert exposed["targetPort"] == port["name"] == rule["ports"][0]["port"]
    assert COMPOSE["vllm"]["ports"] == [f"127.0.0.1:{SERVE['port']}:{SERVE['port']}"]
    assert SERVE["host"] == "0.0.0.0"


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_what_needs_no_key(name: str) -> None:
    asked = SERVER[name]["httpGet"]
    assert asked["path"] == "/health"
    assert asked["path"] in guard.OPEN
    assert asked["port"] == SERVER["ports"][0]["name"]


def test_a_server_may_start_slowly_and_is_not_killed_for_one_slow_answer() -> None:
    startup, alive = SERVER["startupProbe"], SERVER["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 20 * 60
    assert alive["failureThreshold"] >= 3
    assert alive["terminationGracePeriodSeconds"] < SERVE["shutdown-timeout"]


def test_a_server_has_time_to_drain_and_is_killed_soon_after() -> None:
    command = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    wait = int(command[1])
    assert command == ["sleep", str(wait)]
    assert SERVE["shutdown-timeout"] > 0
    spare_seconds = POD["terminationGracePeriodSeconds"] - wait - SERVE["shutdown-timeout"]
    assert 15 <= spare_seconds <= 60
    assert 15 <= seconds(COMPOSE["vllm"]["stop_grace_period"]) - SERVE["shutdown-timeout"] <= 60
    # Code 0 is what vLLM leaves with when its engine has died.
    assert COMPOSE["vllm"]["restart"] in ("always", "unless-stopped")
    assert POD.get("restartPolicy", "Always") == "Always"


def test_volumes_are_there_and_the_weights_are_only_read() -> None:
    mounts = {mount["name"]: mount for mount in SERVER["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in POD["volumes"]}
    assert mounts["weights"]["readOnly"] is True
    claim = read_document("weights/claim.yaml")
    claims = [POD["volumes"], JOB["spec"]["template"]["spec"]["volumes"]]
    for volumes in claims:
        (weights,) = [volume for volume in volumes if volume["name"] == "weights"]
        assert weights["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30 > 2 * fp8_bytes()


# -- nothing for strangers --------------------------------------------------------------------------------------


def test_no_secret_is_in_a_file() -> None:
    assert not [
        manifest for path in VLLM.rglob("*.yaml") for manifest in documents(path) if manifest.get("kind") == "Secret"
    ]
    asked = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in SERVER["env"] if "valueFrom" in entry}
    assert not asked["VLLM_API_KEY"].get("optional", False)
    assert COMPOSE["vllm"]["environment"]["VLLM_API_KEY"].startswith("${VLLM_API_KEY:?")
    for secret, key in (("llama-api-key", "VLLM_API_KEY"), ("hf-token", "HF_TOKEN")):
        assert f"create secret generic {secret} --from-literal={key}=" in DOC
    assert not re.search(r"hf_[A-Za-z]{10}", "".join(p.read_text("utf-8") for p in VLLM.rglob("*.yaml")))


@pytest.mark.parametrize("pod", [POD, JOB["spec"]["template"]["spec"]], ids=["server", "fetch"])
def test_pods_have_no_more_rights_than_they_need(pod: Any) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_servers_have_no_outgoing_network() -> None:
    policy = read_document("base/network.yaml")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    ((name, label),) = rule["from"][0]["podSelector"]["matchLabels"].items()
    assert f'`{name}: "{label}"`' in DOC


KEY = "a key of 16 chars"


def ask(
    path: str,
    method: str = "POST",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    kind: str = "http",
) -> int | str | None:
    """What a request ends in: "passed", a status, or the code that closes a websocket."""
    passed, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    async def receive() -> Any:
        return {"type": f"{kind}.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "method": method, "headers": list(headers)}
    os.environ["VLLM_API_KEY"] = KEY
    try:
        asyncio.run(guard.Guard(app)(scope, receive, send))
    finally:
        del os.environ["VLLM_API_KEY"]
    assert bool(passed) != bool(sent)
    if passed:
        return "passed"
    if kind == "http":
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        json.loads(sent[1]["body"])
        return int(sent[0]["status"])
    return str(sent[0]["type"])


def bearer(key: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"authorization", f"Bearer {key}".encode()),)


def test_the_guard_lets_the_key_through() -> None:
    for path in guard.KEYED:
        assert ask(path, headers=bearer(KEY)) == "passed"
        assert ask(path, headers=((b"Authorization", f"Bearer {KEY}".encode()),)) == "passed"
        assert ask(path) == 401
        assert ask(path, "OPTIONS") == 401
        assert ask(path, headers=bearer(KEY) * 2) == 401
    for path in guard.OPEN:
        assert ask(path, "GET") == "passed"
        assert ask(path, "POST") == 404


def test_endpoints_that_vllm_leaves_open_are_closed() -> None:
    # Routes of vLLM 0.32.0 that its own --api-key does not guard, as it lists them at start.
    for path in ("/invocations", "/ping", "/load", "/detokenize", "/generative_scoring", "/scale_elastic_ep", "/docs"):
        assert ask(path) == ask(path, headers=bearer(KEY)) == 404
    for path in ("//v1/models", "/v1/models/", "/health/../invocations", "/V1/models", ""):
        assert ask(path, headers=bearer(KEY)) == 404
    assert ask("/v1/realtime", kind="websocket", headers=bearer(KEY)) == "websocket.close"
    assert ask("", kind="lifespan") == "passed"


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(max_size=20).map(lambda text: f"/{text}"), st.sampled_from(sorted(guard.OPEN | guard.KEYED))),
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT"]),
    st.one_of(st.text(alphabet=string.printable, max_size=24), st.just(KEY[:-1]), st.just(KEY + "x")),
)
def test_requests_without_the_key_are_refused(path: str, method: str, key: str) -> None:
    open_to_all = path in guard.OPEN and method == "GET"
    assert (ask(path, method, bearer(key)) == "passed") == (open_to_all or (path in guard.KEYED and key == KEY))


@pytest.mark.parametrize("key", [None, "", "short"])
def test_the_server_does_not_start_without_a_good_key(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("VLLM_API_KEY", key)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("asked")

    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        guard.Guard(app)


# -- fetching ---------------------------------------------------------------------------------------------------


def scripts() -> Iterator[tuple[str, str]]:
    yield "fetch.yaml", FETCH["args"][0]
    yield "compose.yaml", COMPOSE["weights"]["command"][0].replace("$$", "$")


@pytest.mark.parametrize(("name", "script"), scripts())
def test_weights_appear_completely_or_not_at_all(tmp_path: Path, name: str, script: str) -> None:
    assert [*FETCH["command"]] == COMPOSE["weights"]["entrypoint"] == ["sh", "-euc"]
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "hf"
    # Writes where it is told to, one file a call, and says that it was cut off until the second is there.
    fake.write_text(
        '#!/bin/sh\nfolder=$6\nmkdir -p "$folder"\necho "$*" >>"$LOG"\n'
        'if [ -e "$folder/1" ]; then : >"$folder/2"; else : >"$folder/1"; exit 1; fi\n'
    )
    fake.chmod(0o755)
    models, log = tmp_path / "models", tmp_path / "log"
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "LOG": str(log),
        "REPOSITORY": "some/model",
        "REVISION": "abc",
    }

    def run() -> int:
        text = script.replace("/models/", f"{models}/")
        return subprocess.run(["sh", "-euc", text], env=environment, capture_output=True, check=False).returncode

    folder = models / "some" / "model" / "abc"
    assert run() != 0
    assert not folder.exists()
    assert run() == 0
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert run() == 0
    asked = f"download some/model --revision abc --local-dir {folder}.part --exclude original/*"
    assert log.read_text().splitlines() == [asked] * 2


# -- the arithmetic of the document -----------------------------------------------------------------------------

# Llama-3.1-70B (arXiv 2407.21783, table 3).
LAYERS, HIDDEN, FEED, KV_HEADS, HEAD, TOKENS = 80, 8192, 28672, 8, 128, 128256
MATRICES = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV_HEADS * HEAD + 3 * HIDDEN * FEED)
REST = 2 * TOKENS * HIDDEN + (2 * LAYERS + 1) * HIDDEN


def fp8_bytes() -> int:
    return MATRICES + 2 * REST


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head."""
    text = re.split(rf"^#+ {re.escape(heading)}$", DOC, flags=re.M)[1]
    table = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def test_sizes_of_weights_and_cache() -> None:
    assert f"{(MATRICES + REST) / 1e9:.2f} billion parameters" in DOC
    weights, cache = rows("Memory")
    assert weights[1:] == [f"{2 * (MATRICES + REST) / 1e9:.1f} GB", f"{fp8_bytes() / 1e9:.1f} GB = 67.7 GiB"]
    assert f"{fp8_bytes() / 2**30:.1f}" == "67.7"
    token = 2 * LAYERS * KV_HEADS * HEAD
    assert cache[1:] == [f"{2 * token // 1024} KiB", f"{token // 1024} KiB"]


@pytest.mark.parametrize(("replica", "gpus", "mib"), [("one H200", 1, 143_771), ("two H100", 2, 81_559)])
def test_the_documented_number_of_sequences_fits_into_memory(replica: str, gpus: int, mib: int) -> None:
    assert f"{mib:,} MiB" in DOC
    usable = gpus * mib / 1024 * SERVE["gpu-memory-utilization"]
    cache_gib = usable - fp8_bytes() / 2**30 - 6 * gpus
    token = 2 * LAYERS * KV_HEADS * HEAD / 2**30
    cells = [f"{usable:.1f} GiB", "67.7 GiB", f"{cache_gib:.1f} GiB"]
    cells += [f"{cache_gib / (2 * token):,.0f}", f"{cache_gib / token:,.0f}"]
    (line,) = [line for line in DOC.splitlines() if line.startswith(f"| {replica} | ")]
    written = [cell.strip() for cell in line.strip("|").split("|")][1:]
    assert written[:3] == cells[:3]
    for rounded, exact in zip(written[3:], cells[3:], strict=True):
        assert round(float(exact.replace(",", "")), -3) == float(rounded.replace(",", ""))
    typical, longest = cache_gib / (2 * token) / 950, cache_gib / (2 * token) / 2524
    assert re.search(rf"\b{typical:.0f}\b", DOC)
    assert re.search(rf"\b{longest:.0f}\b", DOC)
    if gpus == 1:
        assert abs(SERVE["max-num-seqs"] - typical) < 5


def test_the_documented_number_of_replicas() -> None:
    published = {cells[0]: [float(cell.replace(",", "")) for cell in cells[1:]] for cells in rows("Speed")}
    steps = rows("Number of replicas")
    written, *_, total = [[int(cell.replace(",", "")) for cell in cells[1:]] for cells in steps]
    assert total == [sum(int(cells[i].replace(",", "")) for cells in steps[:-1]) for i in (1, 2, 3)]
    for machine, name, gpus in ((0, "one H200", 1), (1, "two H100", 2)):
        # Seconds of a prompt token (x) and an answer token (y): 2048 x + 128 y and 1000 x + 1000 y are published.
        both = 1 / published["1000 / 1000"][machine]
        x = (128 / published["2048 / 128"][machine] - 128 * both) / (2048 - 128)
        y = both - x
        assert f"{1 / x:,.0f}" in DOC
        assert f"{1 / y:,.0f}" in DOC
        short = 1 / (128 / 2048 * x + y) / published["128 / 2048"][machine] - 1
        long = 1 / (10 * x + y) / published["5000 / 500"][machine] - 1
        assert f"{abs(short) * 100:.0f} %" in DOC
        assert f"{long * 100:.0f} %" in DOC
        each = (total[1] * x + total[2] * y) / 0.6
        assert f"{each:.3f} s" in DOC
        assert f"{3600 / each:,.0f}" in DOC
        replicas = -(-1_000_000 // (48 * 3600 / each))
        assert f"**{replicas:.0f} replicas of {name}** ({1_000_000 * each / 3600 * gpus:.0f} GPU-hours)" in re.sub(
            r"\s+", " ", DOC
        )
        if machine == 0:
            assert f"{(written[1] * x + written[2] * y) / 0.6:.3f} s" in DOC


def test_endpoints_in_document_and_example_are_replicas() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", DOC, re.M | re.S)
    example = one_of(ROOT / "examples" / "dialogues.yaml")
    service = read_document("base/service.yaml")["metadata"]["name"]
    most = read_document("h200/kustomization.yaml")["replicas"][0]["count"]
    for annotate in (yaml.safe_load(block)["annotate"], example["annotate"]):
        urls = [endpoint["url"] for endpoint in annotate["endpoints"]]
        assert urls == [f"http://{service}-{i}.{service}:{SERVE['port']}/v1" for i in range(len(urls))]
        assert len(urls) <= most
        assert annotate["model"] == SERVE["served-model-name"]
        assert all(endpoint["in_flight"] > SERVE["max-num-seqs"] for endpoint in annotate["endpoints"])
        assert all(endpoint["api_key_env"] for endpoint in annotate["endpoints"])


def one_of(path: Path) -> Any:
    (document,) = documents(path)
    return document

"""`cluster.toml`: what it may say, and what Ray's launcher and KubeRay are given for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from poise.cluster.render import render
from poise.cluster.spec import ClusterSpec, read_spec
from poise.errors import ConfigError

ARTICLE = """
name = "pong"
provider = "{provider}"
{place}
packages = ["poise[atari,ray] @ git+https://example.org/poise"]
shared_memory_gib = 24
start_timeout_s = 3600
max_run_time_s = 3600
{options}

[environment]
WANDB_MODE = "offline"

[head]
machine = "{head}"
cpus = 6
gpus = 1

[[workers]]
machine = "{worker}"
cpus = 2
max = 4
spot = {spot}
{labels}
"""
"""The cluster of the Azure article: a head with a GPU, and four machines that sample."""
KUBERAY = Path(__file__).parent / "data" / "kuberay_rayjob.json"


def article(folder: Path, provider: str, **other: str) -> ClusterSpec:
    texts = {
        "azure": {"place": 'region = "westeurope"', "head": "Standard_NC4as_T4_v3"},
        "aws": {"place": 'region = "eu-west-1"', "head": "g4dn.xlarge"},
        "gcp": {"place": 'region = "europe-west4"', "head": "n1-standard-8"},
        "kubernetes": {
            "place": 'image = "rayproject/ray:2.60.0-py311-gpu"',
            "head": "Standard_NC4as_T4_v3",
            "labels": 'labels = {"kubernetes.azure.com/scalesetpriority" = "spot"}',
        },
    }[provider]
    texts = {"options": "", "labels": "", "worker": "small", "spot": "true", **texts, **other}
    file = folder / "cluster.toml"
    file.write_text(ARTICLE.format(provider=provider, **texts))
    return read_spec(file)


def local(folder: Path) -> ClusterSpec:
    file = folder / "cluster.toml"
    file.write_text(
        'user = "me"\n[head]\nmachine = "10.0.0.1"\ncpus = 8\n'
        '[[workers]]\nmachine = "10.0.0.2"\n[[workers]]\nmachine = "10.0.0.3"\n'
    )
    return read_spec(file)


def launched(spec: ClusterSpec) -> dict[str, Any]:
    """What Ray's launcher makes of a file before it asks the cloud: defaults, and checks."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    pytest.importorskip("jsonschema")
    made = yaml.safe_load(render(spec))
    made["provider"].setdefault("availability_zone", "a")
    done: dict[str, Any] = util.prepare_config(made)
    util.validate_config(done)
    return done


@pytest.mark.parametrize("provider", ["azure", "aws", "gcp"])
def test_rays_launcher_takes_it(tmp_path: Path, provider: str) -> None:
    spec = article(tmp_path, provider)
    made = launched(spec)
    head, workers = (made["available_node_types"][name] for name in ("head", "workers-0"))
    assert made["head_node_type"] == "head"
    assert (made["max_workers"], made["idle_timeout_minutes"]) == (4, 5)
    assert head["resources"] == {"CPU": 6, "GPU": 1}
    assert workers["resources"] == {"CPU": 2}
    assert (workers["min_workers"], workers["max_workers"]) == (0, 4)
    machine = {"azure": lambda node: node["azure_arm_parameters"]["vmSize"],
               "aws": lambda node: node["InstanceType"],
               "gcp": lambda node: node["machineType"]}[provider]  # fmt: skip
    assert (machine(head["node_config"]), machine(workers["node_config"])) == (
        spec.head.machine,
        "small",
    )
    spot = {"azure": "Spot", "aws": "spot", "gcp": "preemptible"}[provider]
    assert spot in str(workers["node_config"])
    assert spot not in str(head["node_config"])
    assert made["docker"]["run_options"] == ["--shm-size=24gb"]
    assert made["docker"]["head_image"].endswith("-gpu")
    assert made["docker"]["worker_image"].endswith("-cpu")
    assert any("poise[atari,ray]" in command for command in made["setup_commands"])
    assert not any("nightly" in command or "latest" in command for command in
                   made["head_setup_commands"] + made["worker_setup_commands"])  # fmt: skip


@pytest.mark.parametrize("provider", ["azure", "aws", "gcp", "local"])
def test_it_is_guarded_and_opens_nothing(tmp_path: Path, provider: str) -> None:
    spec = local(tmp_path) if provider == "local" else article(tmp_path, provider)
    made = launched(spec)
    starts = [made[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert made["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "chmod 600 ~/.ray/auth_token" in made["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in str(made)
    assert "health_check_period_ms" in starts[0]


def test_own_machines_are_reached_by_ssh(tmp_path: Path) -> None:
    made = launched(local(tmp_path))
    assert made["provider"]["head_ip"] == "10.0.0.1"
    assert made["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3"]
    assert made["auth"]["ssh_user"] == "me"


def test_what_a_provider_wants_beside_goes_through(tmp_path: Path) -> None:
    options = 'options = {subscription_id = "1-2", resource_group = "mine"}'
    spec = article(tmp_path, "azure", options=options)
    assert launched(spec)["provider"] == {
        "type": "azure", "location": "westeurope", "resource_group": "mine",
        "subscription_id": "1-2", "availability_zone": "a",
    }  # fmt: skip


@pytest.mark.parametrize("words", [[], ["train", "IMPALA", "--env", "PongNoFrameskip-v4"]])
def test_kuberay_takes_it(tmp_path: Path, words: list[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    claim = 'options = {volume_claim = "runs"}' if words else ""
    made = yaml.safe_load(render(article(tmp_path, "kubernetes", options=claim), words))
    schema = json.loads(KUBERAY.read_text())["schema"]
    jsonschema.validate(made, schema)
    with pytest.raises(jsonschema.ValidationError):  # it is a schema that says no
        jsonschema.validate({**made, "spec": {**made["spec"], "entrypoints": "x"}}, schema)
    job = made["spec"]
    cluster, head = job["rayClusterSpec"], job["rayClusterSpec"]["headGroupSpec"]["template"]
    workers = cluster["workerGroupSpecs"][0]
    assert cluster["authOptions"] == {"mode": "token"}
    assert job["activeDeadlineSeconds"] == 3600 + 3600 + 120
    assert job["preRunningDeadlineSeconds"] == 3600
    assert (workers["minReplicas"], workers["maxReplicas"]) == (0, 4)
    box = head["spec"]["containers"][0]
    assert box["resources"]["limits"] == {"cpu": "6", "nvidia.com/gpu": "1"}
    assert {"name": "WANDB_MODE", "value": "offline"} in box["env"]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "24Gi"}}
    assert shm in head["spec"]["volumes"]
    [tolerated] = workers["template"]["spec"]["tolerations"]
    assert tolerated["key"] == "kubernetes.azure.com/scalesetpriority"
    assert ("entrypoint" in job) == bool(words)
    if words:
        assert job["entrypoint"].endswith("--env PongNoFrameskip-v4 --folder /runs")
        assert "poise[atari,ray]" in job["runtimeEnvYAML"]


def test_a_job_whose_runs_would_go_with_its_machines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs options\.volume_claim"):
        render(article(tmp_path, "kubernetes"), ["train", "PPO"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nam = 'x'", r"nam is unknown\. Did you mean 'name'\?"),
        ("provider = 'azur'", r"provider='azur' is not allowed.*Did you mean 'azure'\?"),
        ("[head]\ncpu = 2", r"head\.cpu is unknown\. Did you mean 'cpus'\?"),
        ("[head]\nmachine='a'\n[[workers]]\nmachine='b'\nmaxi = 2",
         r"workers\[0\]\.maxi is unknown\. Did you mean 'max'\?"),
        ("[head]\nmachine='a'\ncpus = 0", r"head\.cpus=0 is not allowed.*at least 1"),
        ("[workers]\nmax = 2", r"write \[\[workers\]\] above each"),
        ("provider='aws'\n[head]\nmachine='a'", "provider='aws' needs region"),
        ("provider='kubernetes'", "provider='kubernetes' needs image"),
        ("provider='aws'\nregion='r'", r"head needs machine with provider='aws'"),
        ("provider='aws'\nregion='r'\n[head]\nmachine='a'\n[[workers]]\nmachine='b'\nmin=3\nmax=2",
         r"workers\[0\]\.min=3 is above its max=2"),
        ("provider='kubernetes'\nimage='i'\n[head]\nspot=true", r"head\.spot=true needs labels"),
        ("provider='kubernetes'\nimage='i'\noptions={volume='x'}",
         r"options\.volume is unknown.*Did you mean 'volume_claim'\?"),
        ("[head]\nmachine='a'\n[[workers]]\nmachine='b'\nmax=2", "is one machine of yours"),
        ("name = 'a/b'\n[head]\nmachine='a'", "must be the name of a folder"),
        ("name = ", "is not valid TOML"),
        ("shared_memory_gib = -1", "shared_memory_gib=-1 is not allowed"),
        ("packages = 'poise'", "packages='poise' is not allowed: it must be a list"),
    ],
)  # fmt: skip
def test_mistakes_are_said(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as said:
        read_spec(file)
    assert str(said.value).startswith(str(file))


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        read_spec(tmp_path / "none.toml")

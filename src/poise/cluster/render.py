"""`cluster.toml` as the files of others: Ray's cluster launcher (`ray up`) and KubeRay's RayJob.

Both guard the cluster with the token, open nothing to the world, and notice a dead node in 10 s.
"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from poise.cluster.local import HEALTH
from poise.cluster.spec import VOLUME, ClusterSpec, Group
from poise.errors import ConfigError

TOKEN = "~/.ray/auth_token"
PORT = 6379
RUNS = "/runs"
"""Where a RayJob's volume is mounted."""
FETCH_S = 600
"""Seconds after a job in which its run can be fetched, before its machines go."""
START_S = 1200
"""Seconds for machines to come, where nothing is said."""
GRACE_S = 120
"""Seconds beyond a job's limit of time, for its last checkpoint."""
_START = "RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 POISE_PYTHON=$(which python) ray start"
_AZURE = {
    "imagePublisher": "microsoft-dsvm",
    "imageOffer": "ubuntu-2204",
    "imageSku": "2204-gen2",
    "imageVersion": "latest",
}
_GCP_IMAGE = "projects/deeplearning-platform-release/global/images/family/"


def render(spec: ClusterSpec, words: list[str] | None = None) -> str:
    """The file of a cluster, as YAML.

    Args:
        spec: the cluster.
        words: with `kubernetes`: the command `poise` that the RayJob runs; without any, it waits
            for jobs that are submitted.
    """
    import yaml

    made = ray_job(spec, words or []) if spec.provider == "kubernetes" else launcher(spec)
    return str(yaml.safe_dump(made, sort_keys=False, allow_unicode=True))


def launcher(spec: ClusterSpec) -> dict[str, Any]:
    """What `ray up` takes."""
    groups = {"head": spec.head} | {f"workers-{i}": g for i, g in enumerate(spec.workers)}
    made: dict[str, Any] = {
        "cluster_name": spec.name,
        "max_workers": sum(group.max for group in spec.workers),
        "idle_timeout_minutes": spec.idle_minutes,
        "provider": {"type": spec.provider, **_place(spec), **spec.options},
        "auth": {"ssh_user": spec.user},
        "file_mounts": {TOKEN: TOKEN},
        "setup_commands": [f"chmod 600 {TOKEN}"],
        "head_start_ray_commands": [
            "ray stop",
            f"ulimit -n 65536; {_START} --head --port={PORT} --dashboard-host=127.0.0.1"
            " --autoscaling-config=~/ray_bootstrap_config.yaml"
            f" --system-config={shlex.quote(json.dumps(HEALTH, separators=(',', ':')))}",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"ulimit -n 65536; {_START} --address=$RAY_HEAD_IP:{PORT}",
        ],
    }
    if spec.packages:
        made["setup_commands"].append(shlex.join(["pip", "install", *spec.packages]))
    if spec.provider != "local":
        made["head_node_type"] = "head"
        made["available_node_types"] = {name: _type(spec, g, name) for name, g in groups.items()}
    if spec.provider != "local" or spec.image:
        made["docker"] = {
            "container_name": "poise",
            "head_image": _image(spec, spec.head),
            "worker_image": _image(spec, *spec.workers),
            "run_options": [f"--shm-size={spec.shared_memory_gib:g}gb"]
            if spec.shared_memory_gib
            else [],
        }
    return made


def _place(spec: ClusterSpec) -> dict[str, Any]:
    """Where the machines are, in the provider's words."""
    if spec.provider == "local":
        return {"head_ip": spec.head.machine, "worker_ips": [g.machine for g in spec.workers]}
    if spec.provider == "azure":
        return {"location": spec.region, "resource_group": spec.name}
    zone = {"availability_zone": f"{spec.region}-a"} if spec.provider == "gcp" else {}
    return {"region": spec.region, **zone}


def _type(spec: ClusterSpec, group: Group, name: str) -> dict[str, Any]:
    """A kind of machine, as the launcher has it."""
    made: dict[str, Any] = {
        "resources": {"CPU": group.cpus} | ({"GPU": group.gpus} if group.gpus else {}),
        "node_config": _machine(spec.provider, group),
    }
    return made if name == "head" else {"min_workers": group.min, "max_workers": group.max, **made}


def _machine(provider: str, group: Group) -> dict[str, Any]:
    if provider == "azure":
        spot = {"priority": "Spot", "billingProfile": {"maxPrice": -1}} if group.spot else {}
        return {"azure_arm_parameters": {"vmSize": group.machine, **_AZURE, **spot}}
    if provider == "aws":
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if group.spot else {}
        return {"InstanceType": group.machine, **spot}
    image = _GCP_IMAGE + ("common-cu124-ubuntu-2204" if group.gpus else "common-cpu")
    disk = {"diskSizeGb": 100, "sourceImage": image}
    scheduling: list[dict[str, Any]] = [{"preemptible": True}] if group.spot else []
    if group.gpus:
        scheduling.append({"onHostMaintenance": "TERMINATE"})
    return {
        "machineType": group.machine,
        "disks": [
            {"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": disk}
        ],
        **({"scheduling": scheduling} if scheduling else {}),
    }


def _image(spec: ClusterSpec, *groups: Group) -> str:
    kind = "gpu" if any(group.gpus for group in groups) else "cpu"
    return spec.image or f"rayproject/ray:{_ray()}-py311-{kind}"


def _ray() -> str:
    """The version of Ray that is installed here, which the cluster's is to be."""
    try:
        return version("ray")
    except PackageNotFoundError:
        return "2.60.0"


def ray_job(spec: ClusterSpec, words: list[str]) -> dict[str, Any]:
    """What `kubectl apply` takes, where KubeRay is installed."""
    limit = spec.max_run_time_s
    runtime = {"env_vars": spec.environment} | ({"pip": spec.packages} if spec.packages else {})
    made: dict[str, Any] = {
        "submissionMode": "HTTPMode" if words else "InteractiveMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": FETCH_S,
        "rayClusterSpec": {
            "rayVersion": _ray(),
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"idleTimeoutSeconds": 60 * spec.idle_minutes},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": str(spec.head.cpus), "dashboard-host": "0.0.0.0"},
                "template": _pod(spec, spec.head, "ray-head"),
            },
            "workerGroupSpecs": [
                {
                    "groupName": f"workers-{i}",
                    "replicas": group.min,
                    "minReplicas": group.min,
                    "maxReplicas": group.max,
                    "rayStartParams": {"num-cpus": str(group.cpus)},
                    "template": _pod(spec, group, "ray-worker"),
                }
                for i, group in enumerate(spec.workers)
            ],
        },
    }
    if words:
        made["entrypoint"] = shlex.join(["python", "-m", "poise", *words, "--folder", RUNS])
        made["runtimeEnvYAML"] = json.dumps(runtime)
    if words and VOLUME not in spec.options:
        raise ConfigError(
            f"A RayJob that runs a command needs options.{VOLUME}, for its machines' disks go with"
            " them. Without a command it waits for what `poise submit` sends."
        )
    if spec.start_timeout_s:
        made["preRunningDeadlineSeconds"] = round(spec.start_timeout_s)
    if limit:
        made["activeDeadlineSeconds"] = round((spec.start_timeout_s or START_S) + limit + GRACE_S)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": spec.name},
        "spec": made,
    }


def _pod(spec: ClusterSpec, group: Group, name: str) -> dict[str, Any]:
    """A machine, as Kubernetes has it."""
    has = {"cpu": str(group.cpus)} | ({"nvidia.com/gpu": str(group.gpus)} if group.gpus else {})
    box: dict[str, Any] = {"name": name, "image": spec.image}
    box["resources"] = {"limits": has, "requests": dict(has)}
    box["env"] = [{"name": key, "value": value} for key, value in spec.environment.items()]
    pod: dict[str, Any] = {"containers": [box], "terminationGracePeriodSeconds": GRACE_S}
    volumes = {}
    if spec.shared_memory_gib:
        size = {"medium": "Memory", "sizeLimit": f"{spec.shared_memory_gib:g}Gi"}
        volumes["/dev/shm"] = {"name": "shm", "emptyDir": size}
    if claim := spec.options.get(VOLUME):
        volumes[RUNS] = {"name": "runs", "persistentVolumeClaim": {"claimName": claim}}
    pod["volumes"] = list(volumes.values())
    box["volumeMounts"] = [{"name": v["name"], "mountPath": at} for at, v in volumes.items()]
    machine = {"node.kubernetes.io/instance-type": group.machine} if group.machine else {}
    if selector := {**machine, **group.labels}:
        pod["nodeSelector"] = selector
        pod["tolerations"] = [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in group.labels.items()
        ]
    return {"spec": pod}

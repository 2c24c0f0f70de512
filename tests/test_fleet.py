"""Containers and clusters: the image and the compose file by their linters, the Kubernetes files by its own schemas."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

REPO = Path(__file__).resolve().parent.parent
SETUP = REPO / "runner" / "setup"
VALUES = yaml.safe_load((SETUP / "k8s" / "values.yaml").read_text())
POD = VALUES["template"]["spec"]
MANIFESTS = ["spool.yaml", "network-policy.yaml"]
VERSIONS = ["1.30", "1.37"]

# Top-level values of the chart gha-runner-scale-set, those of its values.yaml and those that its templates read. Its own schema
# constrains listenerConfig alone, which is not used here; so the pod is held against Kubernetes' schemas.
OF_THE_CHART = {
    "githubConfigUrl", "githubConfigSecret", "proxy", "maxRunners", "minRunners", "runnerGroup", "runnerScaleSetName", "scaleSetLabels",
    "fullnameOverride", "githubServerTLS", "keyVault", "containerMode", "listenerTemplate", "listenerMetrics", "template",
    "controllerServiceAccount", "namespaceOverride", "annotations", "labels", "resourceMeta"}


def valid(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def pod() -> dict[str, Any]:
    """The pod as the controller makes it from these values."""
    image = POD["containers"][0]["image"].replace("REGISTRY", "ghcr.io/octo-org").replace("DIGEST", "0" * 64).lower()
    container = {**POD["containers"][0], "image": image}
    metadata = {"name": "x", **VALUES["template"]["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**POD, "containers": [container]}}


# ---------------------------------------------------------------------------------------------------- Kubernetes


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_the_schema(name: str, version: str) -> None:
    valid(yaml.safe_load((SETUP / "k8s" / name).read_text()), version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_runners_pod_fits_the_schema(version: str) -> None:
    valid(pod(), version)


def test_the_schema_would_find_a_mistake() -> None:
    wrong = pod()
    wrong["spec"]["automountServiceAcountToken"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(wrong, VERSIONS[-1])


def test_the_values_are_the_charts() -> None:
    assert set(VALUES) <= OF_THE_CHART
    assert isinstance(VALUES["minRunners"], int)
    assert isinstance(VALUES["maxRunners"], int)
    assert VALUES["minRunners"] == 0 < VALUES["maxRunners"]
    assert len(VALUES["runnerScaleSetName"]) <= 45


def test_the_bench_job_runs_there_without_a_change() -> None:
    bench = yaml.safe_load((REPO / ".github" / "workflows" / "bench.yml").read_text())["jobs"]["bench"]
    assert set(bench["runs-on"]) <= set(VALUES["scaleSetLabels"])


def test_a_job_has_no_rights_in_the_cluster_and_none_on_the_node() -> None:
    [container] = POD["containers"]
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "containerMode" not in VALUES
    assert not any("hostPath" in volume for volume in POD["volumes"])
    assert not re.search(r"privileged: true|hostNetwork|docker\.sock", (SETUP / "k8s" / "values.yaml").read_text())
    assert isinstance(VALUES["githubConfigSecret"], str), "the name of a secret, never one itself"


def test_the_spool_is_where_the_image_says(tmp_path: Path) -> None:
    claim = yaml.safe_load((SETUP / "k8s" / "spool.yaml").read_text())
    [volume] = [volume for volume in POD["volumes"] if volume["name"] == "spool"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [mount] = [mount for mount in POD["containers"][0]["volumeMounts"] if mount["name"] == "spool"]
    assert f"SPRINTBENCH_SPOOL={mount['mountPath']} " in (SETUP / "Dockerfile").read_text()


@pytest.mark.parametrize(("address", "port", "allowed"), [
    ("140.82.112.3", 443, True), ("2606:50c0:8000::153", 443, True), ("140.82.112.3", 22, False), ("140.82.112.3", 80, False),
    ("169.254.169.254", 443, False), ("169.254.169.254", 80, False), ("10.0.0.1", 443, False), ("192.168.1.1", 443, False),
    ("fd00:ec2::254", 443, False), ("fe80::1", 443, False),
])
def test_where_a_job_may_go(address: str, port: int, allowed: bool) -> None:
    policy = yaml.safe_load((SETUP / "k8s" / "network-policy.yaml").read_text())["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= VALUES["template"]["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    to = ipaddress.ip_address(address)
    found = [rule for rule in policy["egress"] for peer in rule["to"] if (block := peer.get("ipBlock"))
             and to in ipaddress.ip_network(block["cidr"]) and not any(to in ipaddress.ip_network(net) for net in block["except"])
             and any(entry["port"] == port for entry in rule["ports"])]
    assert bool(found) == allowed


# ---------------------------------------------------------------------------------------------------- containers


def test_hadolint() -> None:
    hadolint = str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run([hadolint, str(SETUP / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    text = (SETUP / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == [
        "nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1"]
    instructions = re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)
    assert [value for name, value in instructions if name == "USER"] == ["1001:1001"]
    assert ("ENTRYPOINT", '["/usr/bin/tini", "-g", "--"]') in instructions
    for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((REPO / path).exists() for path in copied.split()), copied


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((SETUP / "compose.yaml").read_text())
    return loaded


def test_compose_fits_its_schema() -> None:
    done = subprocess.run([str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec",
                           str(SETUP / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_runs_jobs_holds_no_credential() -> None:
    services = compose()["services"]
    assert services["minter"]["secrets"] == ["github"]
    assert "secrets" not in services["runner"]
    assert "CREDENTIAL" not in str(services["runner"])
    assert services["minter"]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    for service in services.values():
        assert service["user"] == "1001:1001"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["privileged"]
        assert not any(str(volume).startswith(("/", ".")) for volume in service["volumes"])


def test_the_minters_command_is_one_that_it_takes() -> None:
    command = [re.sub(r"\$\{\w+:\?[^}]*\}", "octo-org/sprint", re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", part))
               for part in compose()["services"]["minter"]["command"]]
    assert command[3] == "/opt/sprintbench/minter.py"
    done = subprocess.run([sys.executable, str(SETUP / "minter.py"), *command[4:], "--api", "no address"],
                          capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "minter.py: error: --api: an https address", "all before it is taken"

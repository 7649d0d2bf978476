"""The KubeRay manifest: a strict schema of what it uses, nodes of each cloud, and what the fleet asks of Ray.

Names and types are those of KubeRay's custom resource definition (ray.io/v1) and of Kubernetes' pod; every object is
closed, so that a field which neither knows is refused here as the API server would refuse or drop it.
"""

import copy
import json
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from workbench.rlboost.fleet import SPOT, Fleet
from workbench.rlboost.spot import WeightAgent

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
FILE = ROOT / "docs/rlboost-kuberay.yaml"


def closed(required=(), **fields):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def each(items, least=0):
    return {"type": "array", "items": items, "minItems": least}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY, "minProperties": 1}
EXPRESSION = closed(
    ["key", "operator"], key=TEXT, operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
    values=each(TEXT, 1),
)  # fmt: skip
TOLERATION = closed(
    [], key=TEXT, operator={"enum": ["Equal", "Exists"]}, value=TEXT,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)  # fmt: skip
AFFINITY = closed(
    nodeAffinity=closed(
        requiredDuringSchedulingIgnoredDuringExecution=closed(
            ["nodeSelectorTerms"], nodeSelectorTerms=each(closed(matchExpressions=each(EXPRESSION, 1)), 1)
        )
    )
)
CONTAINER = closed(
    ["name", "image", "resources"],
    name=NAME,
    image=TEXT,
    env=each(closed(["name"], name=TEXT, value=TEXT)),
    lifecycle=closed(preStop=closed(["exec"], exec=closed(["command"], command=each(TEXT, 1)))),
    resources=closed(["requests", "limits"], requests=QUANTITIES, limits=QUANTITIES),
)
TEMPLATE = closed(
    ["spec"],
    spec=closed(
        ["containers", "affinity"], affinity=AFFINITY, tolerations=each(TOLERATION),
        terminationGracePeriodSeconds=COUNT, containers=each(CONTAINER, 1),
    ),
)  # fmt: skip
WORKERS = closed(
    ["groupName", "minReplicas", "maxReplicas", "template", "rayStartParams"], groupName=NAME, replicas=COUNT,
    minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=TEXTS, template=TEMPLATE,
)  # fmt: skip
SCHEMA = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=closed(["name"], name=NAME),
    spec=closed(
        ["headGroupSpec", "workerGroupSpecs", "rayVersion"],
        rayVersion=TEXT,
        enableInTreeAutoscaling=FLAG,
        authOptions=closed(mode={"enum": ["disabled", "token"]}),
        headGroupSpec=closed(
            ["template", "rayStartParams"], serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
            rayStartParams=TEXTS, template=TEMPLATE,
        ),
        workerGroupSpecs={
            **each(WORKERS, 2),
            "allOf": [{"contains": {"properties": {"groupName": {"const": name}}}} for name in ("reserved", SPOT)],
        },
    ),
)  # fmt: skip


def refused(manifest):
    """Why, and where; [] for none."""
    found = jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def groups(manifest):
    spec = manifest["spec"]
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pod(group):
    return group["template"]["spec"]


def container(group):
    (found,) = pod(group)["containers"]
    return found


# -- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_takes_it(manifest):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert refused(manifest) == []


SPOT_POD = "spec workerGroupSpecs 1 template spec"


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        ("spec", {"workerGroupSpec": []}, "'workerGroupSpec' was unexpected"),
        ("", {"apiVersion": "ray.io/v1alpha1"}, "'ray.io/v1' was expected"),
        ("spec workerGroupSpecs 1", {"replicas": "4"}, "'4' is not of type 'integer'"),
        ("spec workerGroupSpecs 1", {"minReplicas": None}, "not of type 'integer'"),
        ("spec workerGroupSpecs 1", {"maxReplica": 3}, "'maxReplica' was unexpected"),
        ("spec workerGroupSpecs 1 rayStartParams", {"num-cpus": 8}, "8 is not of type 'string'"),
        ("spec workerGroupSpecs 1", {"groupName": "Spot"}, "does not match"),
        (SPOT_POD, {"terminationGracePeriodSecond": 15}, "'terminationGracePeriodSecond' was unexpected"),
        (SPOT_POD, {"terminationGracePeriodSeconds": "15"}, "'15' is not of type 'integer'"),
        (SPOT_POD, {"toleration": []}, "'toleration' was unexpected"),
        (f"{SPOT_POD} tolerations 0", {"effect": "NoScheduled"}, "'NoScheduled' is not one of"),
        (f"{SPOT_POD} tolerations 0", {"value": True}, "True is not of type 'string'"),
        (f"{SPOT_POD} containers 0 lifecycle", {"prestop": {}}, "'prestop' was unexpected"),
        (f"{SPOT_POD} containers 0 lifecycle preStop exec", {"command": "ray stop"}, "is not of type 'array'"),
        (f"{SPOT_POD} containers 0 resources limits", {"memory": "32 GB"}, "does not match"),
        (f"{SPOT_POD} affinity nodeAffinity", {"required": {}}, "'required' was unexpected"),
        ("spec authOptions", {"mode": "none"}, "'none' is not one of"),
    ],
)
def test_what_the_schema_refuses(manifest, path, change, says):
    spoilt = copy.deepcopy(manifest)
    at = spoilt
    for step in path.split():
        at = at[int(step) if step.isdigit() else step]
    at.update(change)
    assert any(says in why for why in refused(spoilt)), refused(spoilt)


@pytest.mark.parametrize("gone", ["reserved", SPOT])
def test_a_group_that_is_missing_is_refused(manifest, gone):
    spoilt = copy.deepcopy(manifest)
    workers = spoilt["spec"]["workerGroupSpecs"]
    spoilt["spec"]["workerGroupSpecs"] = [group for group in workers if group["groupName"] != gone]
    assert any("workerGroupSpecs" in why for why in refused(spoilt))
    spoilt["spec"]["workerGroupSpecs"] = [group | {"groupName": "spot"} for group in workers if gone == "reserved"] or [
        group | {"groupName": "reserved"} for group in workers
    ]
    assert any("does not contain" in why for why in refused(spoilt))
    assert any("headGroupSpec" in why for why in refused({**manifest, "spec": {"rayVersion": "2.60.0"}}))


# -- nodes -----------------------------------------------------------------------------------------------------------

GKE, AKS = {"cloud.google.com/gke-spot": "true"}, {"kubernetes.azure.com/scalesetpriority": "spot"}
EKS, KARPENTER = {"eks.amazonaws.com/capacityType": "SPOT"}, {"karpenter.sh/capacity-type": "spot"}
NODES = {  # labels and taints (key, value) of nodes as their clouds make them, or as the manifest says to
    "GKE spot": (GKE, [("cloud.google.com/gke-spot", "true")]),
    "GKE spot, no taint": (GKE, []),
    "EKS spot": (EKS, []),
    "EKS spot, tainted": (EKS, [("spot", "true")]),
    "AKS spot": (AKS, [("kubernetes.azure.com/scalesetpriority", "spot")]),
    "Karpenter spot": (KARPENTER, [("spot", "true")]),
    "GKE on demand": ({"cloud.google.com/gke-nodepool": "pool"}, []),
    "EKS on demand": ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, []),
    "AKS on demand": ({"kubernetes.azure.com/mode": "user"}, []),
    "Karpenter on demand": ({"karpenter.sh/capacity-type": "on-demand"}, []),
}


def holds(expression, labels):
    """As Kubernetes evaluates it: NotIn also holds where the label is missing."""
    value, values = labels.get(expression["key"]), expression.get("values", [])
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(expression)


def goes(group, labels, taints):
    """Whether the group's pods may be scheduled on this node: any term, all of its expressions, each taint borne."""
    spec = pod(group)
    needed = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    borne = [(t["key"], t["value"]) for t in spec.get("tolerations", []) if t["effect"] == "NoSchedule"]
    return any(all(holds(e, labels) for e in term["matchExpressions"]) for term in needed) and set(taints) <= set(borne)


@pytest.mark.parametrize("node", NODES)
def test_spot_nodes_take_the_engines_and_others_the_trainer(groups, node):
    labels, taints = NODES[node]
    wanted = "spot" in node
    assert goes(groups[SPOT], labels, taints) == wanted
    assert goes(groups["reserved"], labels, []) == goes(groups["head"], labels, []) == (not wanted)
    assert not goes(groups[SPOT], labels, [*taints, ("other", "true")])  # the control: a taint that is not ours


# -- Ray -------------------------------------------------------------------------------------------------------------


def offered(group):
    """Resources that `ray start` is told, after the shell has taken its quotes off."""
    words = shlex.split(group["rayStartParams"].get("resources", "{}"))
    assert len(words) == 1, "the shell would cut it"
    return json.loads(words[0])


def test_what_the_fleet_asks_for_is_what_spot_pods_offer(groups, monkeypatch):
    """The request as fleet makes it towards a cluster that was started elsewhere."""
    import ray

    asked = []
    monkeypatch.setattr(ray, "remote", lambda kind: Asked(asked))
    fleet = object.__new__(Fleet)
    fleet.cluster = None
    fleet.actor(dict, "any name")
    wanted = asked[0]["resources"]
    assert wanted == {SPOT: 1}
    assert asked[0]["num_cpus"] == 0
    fitting = {name: all(offered(group).get(k, 0) >= n for k, n in wanted.items()) for name, group in groups.items()}
    assert fitting == {"head": False, "reserved": False, SPOT: True}
    assert offered(groups[SPOT])[SPOT] == 1  # one engine a pod
    spoilt = copy.deepcopy(groups[SPOT])
    spoilt["rayStartParams"]["resources"] = '{"spot": 1}'  # the control: what a shell makes of it is no JSON
    with pytest.raises(AssertionError):
        offered(spoilt)


class Asked:
    """ray.remote(kind).options(...).remote(): notes the options."""

    def __init__(self, asked):
        self.asked = asked

    def options(self, **options):
        self.asked.append(options)
        return self

    def remote(self, *_):
        return None


def test_ray_start_knows_every_parameter(groups):
    told = subprocess.run([RAY, "start", "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    known = set(re.findall(r"^ +--([a-z-]+)", told, re.MULTILINE))
    assert {name for group in groups.values() for name in group["rayStartParams"]} <= known
    assert "num-cpu" not in known  # the control
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    for name in ("reserved", SPOT):
        assert groups[name]["rayStartParams"]["num-cpus"] == container(groups[name])["resources"]["limits"]["cpu"]


def test_versions_and_images_agree(manifest, groups):
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ray=={manifest['spec']['rayVersion']}" in pins["optional-dependencies"]["engines"]
    assert {container(group)["image"].rsplit(":", 1)[1] for group in groups.values()} == {pins["version"]}


# -- the notice ------------------------------------------------------------------------------------------------------


def hook(groups):
    """(command of the drain as words, its own limit, the deadline that it tells, the wait behind it), in seconds."""
    shell = container(groups[SPOT])["lifecycle"]["preStop"]["exec"]["command"]
    assert shell[:2] == ["/bin/bash", "-lc"]
    drain, wait = shell[2].split(";")
    words = shlex.split(drain)
    assert words[0] == "timeout"
    assert re.fullmatch(r"sleep \d+", wait.strip())
    deadline = int(words[words.index("--deadline-remaining-seconds") + 1])
    return words[2:], int(words[1]), deadline, int(wait.split()[1])


def test_the_hook_ends_before_the_pod_is_killed(groups):
    _, limit, deadline, wait = hook(groups)
    grace = pod(groups[SPOT])["terminationGracePeriodSeconds"]
    assert limit + wait < grace <= 15  # what GKE grants
    assert limit < deadline < grace
    env = {one["name"]: one["value"] for one in container(groups[SPOT])["env"]}
    assert env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "0"
    assert "lifecycle" not in container(groups["reserved"])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_hook_drains_a_node_of_a_real_cluster(groups, fleet):
    """On one machine all nodes have one address, so the node is named; in a pod it is the one there is.

    An actor is on it, as an engine would be: Ray ends a node that drains and has nothing to do.
    """
    import ray
    from ray._raylet import GcsClient

    words, _, deadline, _ = hook(groups)
    assert words[:2] == ["ray", "drain-node"]
    fleet.add("spot-1")
    actor = fleet.actor(WeightAgent, "spot-1")
    assert ray.get(actor.sent_bytes.remote(), timeout=120) == 0
    address = ray.get_runtime_context().gcs_address
    client = GcsClient(address=address)
    assert client.get_draining_nodes() == {}  # the control
    command = [RAY, *words[1:]]
    command += ["--address", address, "--node-id", fleet.node_id("spot-1")]
    told = time.time()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    draining = client.get_draining_nodes()
    assert list(draining) == [fleet.node_id("spot-1")]
    assert told - 1 <= draining[fleet.node_id("spot-1")] / 1000 - deadline <= time.time() + 1
    assert ray.get(actor.sent_bytes.remote(), timeout=120) == 0  # what is there goes on
    fleet.kill("spot-1")

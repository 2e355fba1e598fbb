"""The files in ``examples/production`` fit poolguard, gunicorn and each other.

No orchestrator runs here, so the files are judged by the numbers that have to agree: a probe asks
for the path that is set, what ends the service waits for longer than gunicorn does, ``instances``
counts those that live at once, and a fleet's budget is enough for the most hosts that there may be.
gunicorn itself is started with each environment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import yaml
from gunicorn.config import Config

from poolguard.budget.fleet.keys import Keys
from poolguard.budget.fleet.survey import Survey
from poolguard.budget.plan import Workplace, make_plan
from poolguard.cli.fleet_text import report
from poolguard.settings import VARIABLES, Settings, least_of_fleet

from .test_examples import EXAMPLES, get, serving

PRODUCTION = EXAMPLES / "production"
UNIT = PRODUCTION / "shop.service"
GUNICORN = run_path(str(PRODUCTION / "gunicorn.conf.py"))
GRACEFUL: int = GUNICORN["graceful_timeout"]
DEPLOYMENT, AUTOSCALER, SERVICE = yaml.safe_load_all((PRODUCTION / "kubernetes.yaml").read_text())
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
README = (PRODUCTION / "README.md").read_text()
COMPOSE = yaml.safe_load((PRODUCTION / "compose.yaml").read_text())["services"]["shop"]
SECTIONS = {
    "Unit": {"Description", "Wants", "After"},
    "Service": {
        *("Type", "User", "WorkingDirectory", "ExecStart", "ExecReload", "Restart", "KillMode"),
        *("TimeoutStopSec", "PrivateTmp", "RuntimeDirectory", "RuntimeDirectoryMode"),
        *("RuntimeDirectoryPreserve", "Environment", "EnvironmentFile"),
    },
    "Install": {"WantedBy"},
}
"""What systemd 252 knows, as far as the unit needs it; systemd-analyze knows all, where it is."""


def unit_of(text: str) -> dict[str, dict[str, list[str]]]:
    """By section and key, each value that is given, in order: a key may be given many times."""
    unit: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = unit.setdefault(header[1], {})
        else:
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return unit


def seconds(text: str) -> int:
    """A duration of Compose's, in the one form that the file has."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None
    return int(found[1])


def bind_of(command: list[str]) -> tuple[str, int]:
    host, _, port = command[command.index("--bind") + 1].rpartition(":")
    return host, int(port)


def told_of_a_fleet() -> set[str]:
    """What the text on fleets says of the status."""
    text = (EXAMPLES / "fleet/README.md").read_text()
    rows = text.partition('| in `"fleet"` |')[2].partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


SECTION = unit_of(UNIT.read_text())["Service"]
COMMANDS: dict[str, list[str]] = {
    "shop.service": SECTION["ExecStart"][0].split(),
    "kubernetes.yaml": CONTAINER["command"],
    "compose.yaml": COMPOSE["command"],
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "shop.service": dict(each.split("=", 1) for each in SECTION["Environment"]),
    "kubernetes.yaml": {
        each["name"]: each["value"] for each in CONTAINER["env"] if "value" in each
    },
    "compose.yaml": COMPOSE["environment"],
}
by_file = pytest.mark.parametrize("file", list(ENVIRONMENTS))


# -- what all have -----------------------------------------------------------------------------


@by_file
def test_each_variable_is_a_setting_that_takes_its_value(file: str) -> None:
    """Settings.build refuses a variable that it does not know, a bad value and a contradiction."""
    environ = ENVIRONMENTS[file]
    ours = {name for name in environ if name.startswith("POOLGUARD_")}
    counted = {VARIABLES["instances"]} if file != "kubernetes.yaml" else {VARIABLES["ledger"]}
    assert ours >= {VARIABLES["ready_path"]} | counted
    assert all(isinstance(value, str) for value in environ.values()), "YAML would make it a number"
    settings = Settings.build(environ=environ | {"DATABASE_URL": "postgresql://shop@db/shop"})
    for name, variable in VARIABLES.items():
        expected = f"variable {variable}" if variable in ours else "default"
        if name != "dsn":
            assert settings.source(name) == expected


@pytest.mark.parametrize("file", [*ENVIRONMENTS, "README.md"])
def test_no_text_names_a_setting_that_there_is_not(file: str) -> None:
    """In comments and keys alike."""
    named = set(re.findall(r"POOLGUARD_\w+", (PRODUCTION / file).read_text()))
    assert named
    assert named <= set(VARIABLES.values())


@by_file
def test_gunicorn_is_started_by_itself_and_takes_its_options(file: str) -> None:
    """No shell stands between it and the signals; the application is the one beside the files."""
    program, *options = COMMANDS[file]
    assert Path(program).name == "gunicorn"
    assert options[-1] == "shop:app"
    parsed = Config().parser().parse_args(options)
    assert parsed.bind == [":".join(map(str, bind_of(options)))]
    assert (PRODUCTION / "shop.py").is_file()


@by_file
def test_gunicorn_serves_with_the_environment(file: str, dsn: str, tmp_path: Path) -> None:
    """It is ready where the probe asks. Its share is the budget divided by the instances; a fleet's
    host may have all but its control session and what is kept free for the next host."""
    environ = ENVIRONMENTS[file] | {
        "DATABASE_URL": dsn,
        "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run"),
    }
    with serving("production", app="shop:app", **environ) as port:
        assert get(port, "/")[0] == 200
        status, body = get(port, environ["POOLGUARD_READY_PATH"])
    assert status == 200
    [guard] = json.loads(body)["guards"]
    budget = guard["budget"]
    if environ.get("POOLGUARD_LEDGER") == "fleet":
        assert budget["fleet"]["hosts"] == 1
        assert budget["instance"] == budget["fleet"]["budget"] - 2 == budget["budget"] - 2
        assert budget["fleet"]["unreachable"] is None
        assert budget["fleet"].keys() == told_of_a_fleet(), "the text says what each means"
    else:
        assert budget["instance"] == budget["budget"] // int(environ["POOLGUARD_INSTANCES"])
    assert guard["floor"] >= 1


def test_the_configuration_is_one_of_gunicorns() -> None:
    known = Config().settings
    ours = {name for name in GUNICORN if not name.startswith("_")}
    # The second is known since gunicorn 25.1; those before pass over what they do not know.
    assert ours <= {*known, "control_socket_disable"}
    assert known["graceful_timeout"].get() == GRACEFUL, "it says that this is the default"


# -- systemd -----------------------------------------------------------------------------------


def test_the_unit_has_known_sections_and_keys() -> None:
    unit = unit_of(UNIT.read_text())
    assert unit.keys() == SECTIONS.keys()
    for section, keys in unit.items():
        assert keys.keys() <= SECTIONS[section]
        for key, values in keys.items():
            assert len(values) == 1 or key == "Environment"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program in place of gunicorn that is there; what it only warns of counts, too."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    program = COMMANDS["shop.service"][0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(program, sys.executable))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert said == []
    assert done.returncode == 0


def test_the_unit_lets_the_master_end_its_workers() -> None:
    assert SECTION["KillMode"] == ["mixed"]
    assert int(SECTION["TimeoutStopSec"][0]) > GRACEFUL
    assert SECTION["Type"] == ["notify"]
    assert SECTION["ExecReload"] == ["/bin/kill -s HUP $MAINPID"]


def test_the_units_workers_meet_where_the_service_alone_may_enter() -> None:
    """A private /tmp would hide the ledger; a folder that others may enter is not trusted."""
    runtime_dir = Path(ENVIRONMENTS["shop.service"]["POOLGUARD_RUNTIME_DIR"])
    assert SECTION["PrivateTmp"] == ["yes"]
    assert runtime_dir == Path("/run", SECTION["RuntimeDirectory"][0])
    assert SECTION["RuntimeDirectoryMode"] == ["0700"]
    assert SECTION["RuntimeDirectoryPreserve"] in (["restart"], ["yes"])
    assert SECTION["User"] not in ([], ["root"])


def test_the_unit_hides_where_the_database_is() -> None:
    """What Environment= says, everybody may read."""
    assert "DATABASE_URL" not in ENVIRONMENTS["shop.service"]
    assert SECTION["EnvironmentFile"]


# -- Kubernetes --------------------------------------------------------------------------------


def test_the_probe_asks_for_the_readiness_path() -> None:
    probe = CONTAINER["readinessProbe"]["httpGet"]
    assert probe["path"] == ENVIRONMENTS["kubernetes.yaml"]["POOLGUARD_READY_PATH"]
    [port] = CONTAINER["ports"]
    assert probe["port"] == port["name"]
    assert bind_of(CONTAINER["command"]) == ("0.0.0.0", port["containerPort"])
    assert [each["targetPort"] for each in SERVICE["spec"]["ports"]] == [port["name"]]


def test_no_pod_is_restarted_for_its_database() -> None:
    assert CONTAINER["livenessProbe"].keys() & {"httpGet", "exec", "grpc"} == set()
    assert CONTAINER["livenessProbe"]["tcpSocket"]["port"] == CONTAINER["ports"][0]["name"]


def test_a_pod_has_longer_than_gunicorn() -> None:
    """The grace period begins with preStop."""
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > before + GRACEFUL


def test_no_number_of_pods_goes_into_a_fleets_pods() -> None:
    environ = ENVIRONMENTS["kubernetes.yaml"]
    assert environ["POOLGUARD_LEDGER"] == "fleet"
    counting = {"POOLGUARD_INSTANCES", "POOLGUARD_WORKERS", "POOLGUARD_FLOOR", "POOLGUARD_MAX_SIZE"}
    assert environ.keys() & counting == set()
    assert "replicas" not in DEPLOYMENT["spec"], "each deploy would undo what the autoscaler did"


def test_the_autoscaler_scales_the_deployment() -> None:
    spec = AUTOSCALER["spec"]
    assert (AUTOSCALER["kind"], AUTOSCALER["apiVersion"]) == (
        "HorizontalPodAutoscaler",
        "autoscaling/v2",
    )
    assert spec["scaleTargetRef"] == {
        "apiVersion": DEPLOYMENT["apiVersion"],
        "kind": DEPLOYMENT["kind"],
        "name": DEPLOYMENT["metadata"]["name"],
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 50)
    [metric] = spec["metrics"]
    assert metric["resource"]["name"] in CONTAINER["resources"]["requests"], "a part of the request"


def test_the_fleet_that_is_shown_has_the_columns_of_the_code() -> None:
    text = (EXAMPLES / "fleet/README.md").read_text()
    shown = text.partition("$ poolguard status --fleet\n")[2].splitlines()
    heads, *_ = report([Survey(Keys.of("shop@shop"), [])], "shop", None)
    assert shown[0].split() == heads.split()


def test_the_budget_is_enough_for_a_rollout_of_the_most_pods() -> None:
    """By the product's own plan, which would refuse it: a warm connection for each worker of each
    pod. While one wave of a rollout boots, the one before it may still end."""
    rolling = DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxUnavailable"] == 0
    peak = AUTOSCALER["spec"]["maxReplicas"] + 2 * rolling["maxSurge"]
    environ = ENVIRONMENTS["kubernetes.yaml"] | {"POOLGUARD_INSTANCES": str(peak)}
    workers = GUNICORN["workers"]
    plan = make_plan(
        None, Settings.build(environ=environ), Workplace.of("gthread", workers, GUNICORN["threads"])
    )
    assert plan.floor >= 1
    assert plan.budget >= least_of_fleet(peak, workers)


def test_the_text_tells_the_numbers_of_the_manifest() -> None:
    section = README.partition("## Kubernetes\n")[2].partition("\n## ")[0]
    spec, budget = AUTOSCALER["spec"], ENVIRONMENTS["kubernetes.yaml"]["POOLGUARD_BUDGET"]
    surge = DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    most, workers = spec["maxReplicas"], GUNICORN["workers"]
    assert f"from {spec['minReplicas']} to {most} pods" in section
    assert f"CONNECTION LIMIT {budget}" in section
    least = least_of_fleet(most + 2 * surge, workers)
    assert f"{most + 2 * surge} × ({workers} + 1) + 1 = {least}" in section
    assert least <= int(budget)


def test_the_parts_of_the_manifest_find_each_other() -> None:
    assert (DEPLOYMENT["kind"], SERVICE["kind"]) == ("Deployment", "Service")
    names = {each["metadata"]["name"] for each in (DEPLOYMENT, AUTOSCALER, SERVICE)}
    assert names == {"shop"}
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"] == labels
    volumes = {each["name"] for each in POD["volumes"]}
    assert {each["name"] for each in CONTAINER["volumeMounts"]} == volumes


def test_a_read_only_container_has_room_for_the_ledger() -> None:
    """The runtime folder is a new one under /tmp, where nothing sets another."""
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert [each["mountPath"] for each in CONTAINER["volumeMounts"]] == ["/tmp"]
    assert COMPOSE["read_only"] is True
    assert COMPOSE["tmpfs"] == ["/tmp"]
    for file in ("kubernetes.yaml", "compose.yaml"):
        assert "POOLGUARD_RUNTIME_DIR" not in ENVIRONMENTS[file]


@pytest.mark.parametrize("image", [CONTAINER["image"], COMPOSE["image"]])
def test_an_image_is_of_one_release(image: str) -> None:
    """``latest``, or no tag, would roll something else out when a pod is moved."""
    assert re.fullmatch(r"[a-z.]+/shop:\d+\.\d+\.\d+", image)


# -- Compose -----------------------------------------------------------------------------------


def test_the_check_asks_for_the_readiness_path(dsn: str, tmp_path: Path) -> None:
    """It is run as it stands, but for the port: it succeeds on a ready worker and fails else."""
    environ = ENVIRONMENTS["compose.yaml"]
    kind, program, *arguments = COMPOSE["healthcheck"]["test"]
    _, bound = bind_of(COMPOSE["command"])
    url = f'"http://127.0.0.1:{bound}{environ["POOLGUARD_READY_PATH"]}"'
    assert (kind, program) == ("CMD", "python")
    assert url in arguments[-1]

    def judged(port: int) -> int:
        script = [each.replace(f":{bound}/", f":{port}/") for each in arguments]
        return subprocess.run(
            [sys.executable, *script], stderr=subprocess.DEVNULL, check=False
        ).returncode

    ready = environ | {"DATABASE_URL": dsn, "POOLGUARD_RUNTIME_DIR": str(tmp_path / "run")}
    with serving("production", app="shop:app", **ready) as port:
        assert get(port, "/")[0] == 200
        assert judged(port) == 0
    away = ready | {
        "DATABASE_URL": "postgresql://shop@127.0.0.1:1/shop",
        "POOLGUARD_WARMUP_TIMEOUT": "0.1",
        "POOLGUARD_RUNTIME_DIR": str(tmp_path / "other"),
    }
    with serving("production", app="shop:app", **away) as port:
        assert get(port, environ["POOLGUARD_READY_PATH"])[0] == 503
        assert judged(port) == 1


def test_compose_waits_for_longer_than_gunicorn() -> None:
    assert seconds(COMPOSE["stop_grace_period"]) > GRACEFUL
    check = COMPOSE["healthcheck"]
    assert seconds(check["start_period"]) > Settings().warmup_timeout
    assert seconds(check["timeout"]) < seconds(check["interval"])


def test_the_instances_are_the_containers() -> None:
    replicas = COMPOSE["deploy"]["replicas"]
    assert int(ENVIRONMENTS["compose.yaml"]["POOLGUARD_INSTANCES"]) == replicas


def test_no_password_is_written_down() -> None:
    services = yaml.safe_load((PRODUCTION / "compose.yaml").read_text())["services"]
    for text in (
        services["shop"]["environment"]["DATABASE_URL"],
        services["db"]["environment"]["POSTGRES_PASSWORD"],
    ):
        assert "${SHOP_DB_PASSWORD:?" in text

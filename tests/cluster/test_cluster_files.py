"""Checks of cluster/ without a cluster: schemas, versions, syntax, commands, and what must not be there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from jsonschema.exceptions import ValidationError

import rspipe
from rspipe.commands.options import StageOptions
from rspipe.study.loading import load_study
from tests.processes import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = REPOSITORY / "cluster"
LAUNCHED = ("aws", "gcp", "local")
IMAGE = "YOUR_REGISTRY/rspipe"

# What KubeRay 1.5 to 1.7 knows of the parts that are used here; an unknown key is dropped without a word by kubectl.
RAYJOB = (
    "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec "
    "runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend "
    "ttlSecondsAfterFinished"
)
RAYCLUSTER = (
    "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs"
)
HEAD_GROUP = "enableIngress headService labels rayStartParams resources serviceType template"
WORKER_GROUP = (
    "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas resources "
    "scaleStrategy suspend template"
)


def text_of(name: str) -> str:
    return (CLUSTER / name).read_text(encoding="utf-8")


def pinned(package: str) -> str:
    (release,) = re.findall(rf"^{package}==(\S+)$", text_of("constraints.txt"), re.MULTILINE)
    return str(release)


def launcher(name: str) -> dict[str, Any]:
    """Return a launcher file as Ray completes and checks it; private in Ray, so used here alone."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(text_of(f"{name}.yaml")))
    validate_config(config)
    return config


@pytest.fixture(scope="module")
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """The Kubernetes objects by kind and name."""
    documents = list(yaml.safe_load_all(text_of("rayjob.yaml")))
    named = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert len(named) == len(documents)
    return named


@pytest.fixture(scope="module")
def job(manifests: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    (spec,) = [one["spec"] for (kind, _), one in manifests.items() if kind == "RayJob"]
    return dict(spec)


def pods(manifests: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return every pod template by the name of its container."""
    spec = manifests["RayJob", "rspipe-digits"]["spec"]
    cluster = spec["rayClusterSpec"]
    templates = [manifests["Deployment", "rspipe-mlflow"]["spec"]["template"], spec["submitterPodTemplate"]]
    templates += [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return {template["spec"]["containers"][0]["name"]: template for template in templates}


# --- the launcher -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_launcher_files(name: str) -> None:
    assert launcher(name)["cluster_name"] == "rspipe"


def test_rays_check_refuses_a_key_that_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = text_of("aws.yaml").replace("min_workers:", "minimum_workers:")
    assert wrong != text_of("aws.yaml")
    (tmp_path / "aws.yaml").write_text(wrong, encoding="utf-8")
    monkeypatch.setitem(globals(), "CLUSTER", tmp_path)
    with pytest.raises(ValidationError, match="minimum_workers"):
        launcher("aws")


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_head_works_for_nobody_and_stays_while_gpus_come_and_go(name: str) -> None:
    config = launcher(name)
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert not {"spot", "SPOT"} & set(re.findall(r"\w+", str(head)))
    (worker,) = types.values()
    assert worker["min_workers"] == 0 < worker["max_workers"] == config["max_workers"]
    assert {"spot", "SPOT"} & set(re.findall(r"\w+", str(worker)))
    assert worker["resources"]["GPU"] >= 1
    assert all(type(amount) is int for amount in worker["resources"].values()), "Ray takes whole numbers alone"


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_node_that_the_launcher_starts_wants_the_token(name: str) -> None:
    config = launcher(name)
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    for role in ("head", "worker"):
        starts = [line for line in config[f"{role}_start_ray_commands"] if "ray start" in line]
        assert len(starts) == 1
        assert "export RAY_AUTH_MODE=token;" in starts[0].partition("ray start")[0]


@pytest.mark.parametrize("name", LAUNCHED)
def test_dashboard_and_mlflow_listen_on_the_heads_loopback_alone(name: str) -> None:
    commands = launcher(name)["head_start_ray_commands"]
    (start,) = [line for line in commands if "ray start" in line]
    (server,) = [line for line in commands if "mlflow server" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--host 127.0.0.1" in server
    options = launcher(name)["docker"]["head_run_options"]
    port = re.findall(r"--port (\d+)", server)[0]
    assert f"--env MLFLOW_TRACKING_URI=http://127.0.0.1:{port}" in options


def test_amazons_nodes_are_in_a_group_of_the_users_own() -> None:
    # Of the group that Ray would make, SSH is open to the world.
    for node in launcher("aws")["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"] == ["YOUR_SECURITY_GROUP"]


@pytest.mark.parametrize("name", LAUNCHED)
def test_commands_of_the_launcher_are_words_of_a_shell(name: str) -> None:
    config = launcher(name)
    kinds = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    commands = [line for kind in kinds for line in config.get(f"{kind}_commands", [])]
    assert len(commands) >= 4
    for line in commands:
        # As Ray runs it.
        done = subprocess.run(["bash", "-n", "-c", f"({line})"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)


# --- the image --------------------------------------------------------------------------------------------------------


def install_words(text: str) -> list[set[str]]:
    """Return the words of every installation of the project, but for how much pip says."""
    lines = re.findall(r"pip install ([^\n&]*-e [^\n&`]*)", text)
    mute = {"--quiet", "--disable-pip-version-check", "--no-cache-dir"}
    return [set(shlex.split(line)) - mute for line in lines]


def test_the_image_installs_as_the_readme_and_the_check_do() -> None:
    (image,) = install_words(text_of("Dockerfile"))
    (check,) = install_words((REPOSITORY / ".ci" / "run").read_text(encoding="utf-8"))
    (readme,) = install_words((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert image == check == readme == {"-c", "cluster/constraints.txt", "-e", ".[dev]"}


def test_ray_is_of_one_version_everywhere() -> None:
    ray = pinned("ray")
    assert f"ARG RAY={ray}\n" in text_of("Dockerfile")
    assert version("ray") == ray, "constraints.txt names the versions that the tests passed with"
    tag = f"{rspipe.__version__}-ray{ray}"
    for name in ("aws.yaml", "gcp.yaml", "local.yaml", "rayjob.yaml", "Dockerfile", "README.md"):
        assert set(re.findall(rf"{IMAGE}:([\w.-]+)", text_of(name))) == {tag}, name


def test_the_images_python_is_one_that_the_project_runs_on() -> None:
    (minor,) = re.findall(r"^FROM rayproject/ray:\$\{RAY\}-py3(\d+)-cpu$", text_of("Dockerfile"), re.MULTILINE)
    assert 11 <= int(minor) <= 13


def ignored(path: str) -> bool:
    """Return whether the image's ignore file leaves a path of the repository out: the last line that fits decides."""
    verdict = False
    for line in text_of("Dockerfile.dockerignore").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = Path(path).parts
        if pattern.startswith("**/"):
            hit = any(Path(part).match(pattern[3:]) for part in parts)
        else:
            hit = Path(parts[0]).match(pattern)
        if hit:
            verdict = not line.startswith("!")
    return verdict


def test_the_image_holds_the_project_and_nothing_else() -> None:
    for kept in ("pyproject.toml", "rspipe/spec.py", "pipelines/full_study.py", "cluster/constraints.txt", "README.md"):
        assert not ignored(kept), kept
    for left in (
        ".git/config",
        ".env",
        "runs/a/models/b/weights.pt",
        "mlflow.db",
        "data/x",
        "id_ed25519",
        ".venv/bin/x",
    ):
        assert ignored(left), left
    assert ignored("rspipe/__pycache__/spec.pyc")
    assert ignored("pipelines/weights.pt")


def test_the_image_runs_as_the_base_images_user() -> None:
    words = re.findall(r"^(\w+) ", text_of("Dockerfile"), re.MULTILINE)
    assert "USER" not in words
    assert "COPY --chown=ray:users . ." in text_of("Dockerfile")
    assert not re.search(r"\bsudo\b|apt-get", text_of("Dockerfile"))


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_the_job_says_what_kuberay_understands(job: dict[str, Any]) -> None:
    cluster = job["rayClusterSpec"]
    assert set(job) <= set(RAYJOB.split())
    assert set(cluster) <= set(RAYCLUSTER.split())
    assert set(cluster["headGroupSpec"]) <= set(HEAD_GROUP.split())
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= set(WORKER_GROUP.split())
        assert {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= set(group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for params in (
        cluster["headGroupSpec"]["rayStartParams"],
        *(g["rayStartParams"] for g in cluster["workerGroupSpecs"]),
    ):
        assert all(isinstance(value, str) for value in params.values()), "KubeRay wants texts"


def test_the_jobs_ray_is_the_projects(manifests: dict[tuple[str, str], dict[str, Any]], job: dict[str, Any]) -> None:
    assert job["rayClusterSpec"]["rayVersion"] == pinned("ray")
    assert manifests["RayJob", "rspipe-digits"]["apiVersion"] == "ray.io/v1"
    images = {container["image"] for pod in pods(manifests).values() for container in pod["spec"]["containers"]}
    assert len(images) == 1


def test_the_jobs_entrypoint_is_a_command_line_of_the_pipeline(job: dict[str, Any]) -> None:
    bash, wrapper, python, script, *words = shlex.split(job["entrypoint"])
    assert (bash, wrapper, python) == ("bash", "cluster/job.sh", "python")
    assert (REPOSITORY / script).is_file()
    options = tyro.cli(StageOptions, args=words)
    assert options.study is not None
    assert load_study(REPOSITORY / options.study).name == "digits"
    assert options.run_dir is not None
    assert Path(options.run_dir).is_absolute()
    # Workers are none until the job asks for them.
    assert options.resources.wait_minutes > 0
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert options.resources.workers is not None
    assert options.resources.workers <= group["maxReplicas"]
    assert (
        options.resources.gpus_per_worker
        <= group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    )


def test_the_jobs_run_directory_is_in_the_volume_that_head_and_workers_share(
    manifests: dict[tuple[str, str], dict[str, Any]], job: dict[str, Any]
) -> None:
    run_dir = tyro.cli(StageOptions, args=shlex.split(job["entrypoint"])[4:]).run_dir
    assert run_dir is not None
    for name in ("ray-head", "ray-worker"):
        spec = pods(manifests)[name]["spec"]
        (mount,) = spec["containers"][0]["volumeMounts"]
        assert Path(mount["mountPath"]) in Path(run_dir).parents
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]}
        claim = manifests["PersistentVolumeClaim", claims[mount["name"]]]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_driver_finds_the_mlflow_server_and_is_let_in(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    service = manifests["Service", "rspipe-mlflow"]
    port = service["spec"]["ports"][0]["port"]
    uri = f"http://{service['metadata']['name']}:{port}"
    container = pods(manifests)["ray-head"]["spec"]["containers"][0]
    assert {"name": "MLFLOW_TRACKING_URI", "value": uri} in container["env"]
    server = pods(manifests)["mlflow"]
    assert f"{service['metadata']['name']}:{port}" in " ".join(server["spec"]["containers"][0]["args"])
    assert service["spec"]["selector"].items() <= server["metadata"]["labels"].items()
    policy = manifests["NetworkPolicy", "rspipe-mlflow"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= server["metadata"]["labels"].items()
    ((rule,),) = [policy["ingress"]]
    assert [port["port"] for port in rule["ports"]] == [port]
    (source,) = rule["from"]
    assert source["podSelector"]["matchLabels"].items() <= pods(manifests)["ray-head"]["metadata"]["labels"].items()


def test_kubernetes_gives_the_token_to_all_pods_and_shows_none_to_the_world(
    manifests: dict[tuple[str, str], dict[str, Any]], job: dict[str, Any]
) -> None:
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert {kind for kind, _ in manifests} == {
        *("PersistentVolumeClaim", "Deployment", "Service", "NetworkPolicy", "RayJob"),
    }
    for (kind, _), one in manifests.items():
        if kind == "Service":
            assert one["spec"]["type"] == "ClusterIP"
    policies = [one["spec"] for (kind, _), one in manifests.items() if kind == "NetworkPolicy"]
    for name, pod in pods(manifests).items():
        labels = pod["metadata"]["labels"].items()
        assert [policy for policy in policies if policy["podSelector"]["matchLabels"].items() <= labels], name
        assert "hostNetwork" not in pod["spec"]
    for name in ("mlflow", "ray-head", "ray-worker"):
        spec = pods(manifests)[name]["spec"]
        context = {**spec.get("securityContext", {}), **spec["containers"][0]["securityContext"]}
        assert (context["runAsNonRoot"], context["allowPrivilegeEscalation"]) == (True, False), name


@pytest.mark.parametrize(("ends", "stopped"), [(0, False), (1, False), (2, True), (137, False)])
def test_kubernetes_tries_nothing_again_that_the_user_has_to_correct(ends: int, stopped: bool, tmp_path: Path) -> None:
    # KubeRay starts another cluster for a job that failed, and none for one that was stopped.
    pretend(tmp_path, "ray", f'echo "$*" > {tmp_path}/told; exit 1')
    own = {
        "PATH": f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "rspipe-digits-x2"}}',
    }
    words = ["bash", str(CLUSTER / "job.sh"), "bash", "-c", f"exit {ends}"]
    assert subprocess.run(words, env=own, check=False).returncode == ends
    assert (tmp_path / "told").exists() is stopped
    if stopped:
        stop = "job stop --no-wait --address http://127.0.0.1:8265 rspipe-digits-x2\n"
        assert (tmp_path / "told").read_text(encoding="utf-8") == stop


# --- Slurm ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["cluster/slurm.sh", "cluster/job.sh", ".ci/run"])
def test_scripts_are_words_of_a_shell(script: str) -> None:
    subprocess.run(["bash", "-n", str(REPOSITORY / script)], check=True)
    assert os.access(REPOSITORY / script, os.X_OK)


def test_scripts_pass_shellcheck() -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("needs shellcheck, which is not installed")
    subprocess.run(
        [checker, str(CLUSTER / "slurm.sh"), str(CLUSTER / "job.sh"), str(REPOSITORY / ".ci" / "run")], check=True
    )


def pretend(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An allocation of two nodes, with commands that only say what they were told; ray runs what follows `--`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    pretend(tools, "scontrol", "printf 'n1\\nn2\\n'")
    pretend(tools, "srun", 'while [[ "$1" == --* ]]; do shift; done; exec "$@"')
    pretend(tools, "hostname", "echo '10.1.2.3 192.168.0.1 '")
    ray = 'echo "ray $RAY_AUTH_MODE: $*" >> told; [[ "$1" != symmetric-run || -f broken ]] && exit 0\n'
    pretend(tools, "ray", ray + 'while [[ "$1" != -- ]]; do shift; done; shift; exec "$@"')
    pretend(tools, "python", 'echo "python at $RAY_ADDRESS: $*" >> told; exit "$(cat ends)"')
    return {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": "active",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
    }


def submit(environment: dict[str, str], folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(CLUSTER / "slurm.sh"), *words], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("ends", [0, 2, 130])
def test_a_slurm_job_ends_as_its_study_does(ends: int, slurm: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ends").write_text(str(ends))
    done = submit(slurm, tmp_path, "--run-dir", "/shared/a b", "--set", "certify.n=10")
    assert done.returncode == ends, done.stderr
    told = (tmp_path / "told").read_text()
    assert "ray token: get-auth-token --generate" in told
    run = "symmetric-run --address 10.1.2.3:24711 --min-nodes 2 --num-cpus=8 --num-gpus=1 -- bash -c"
    assert f"ray token: {run}" in told
    assert "python at 10.1.2.3:24711: -u pipelines/full_study.py --run-dir /shared/a b --set certify.n=10\n" in told
    assert not list(tmp_path.glob(".rspipe-*"))


def test_a_slurm_job_whose_ray_does_not_start_fails(slurm: dict[str, str], tmp_path: Path) -> None:
    # symmetric-run itself ends with 0 then.
    (tmp_path / "broken").touch()
    done = submit(slurm, tmp_path, "--run-dir", "/shared/runs")
    assert done.returncode == 1
    assert "the study did not start" in done.stderr


def test_symmetric_run_and_ray_start_take_what_the_slurm_script_gives_them() -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    own = {option for parameter in symmetric_run.params for option in parameter.opts}
    (call,) = re.findall(r"ray symmetric-run (.*?) -- ", text_of("slurm.sh").replace("\\\n", " "))
    words = [word.partition("=")[0] for word in shlex.split(call) if word.startswith("--")]
    handed_on = [word for word in words if word not in own]
    assert len(words) == 4
    assert {option for parameter in start.params for option in parameter.opts} >= set(handed_on)
    assert len(curate_and_validate_ray_start_args(shlex.split(call))) == len(handed_on) == 2


def test_a_study_on_slurm_runs_on_the_ray_that_the_script_started(
    own_ray: None, slurm: dict[str, str], tmp_path: Path
) -> None:
    """With real ray, in a process namespace of its own, since `ray symmetric-run` ends every Ray that it sees."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs unshare (util-linux) and the right to make namespaces")
    tools = Path(slurm["PATH"].partition(os.pathsep)[0])
    pretend(tools, "hostname", "echo 127.0.0.1")
    for name in ("ray", "python"):
        (tools / name).unlink()
    path = f"{Path(sys.executable).parent}{os.pathsep}{slurm['PATH']}"
    # A study that joins as every study does, and says where it is.
    (tmp_path / "pipelines").mkdir()
    said = (
        "from pathlib import Path\n"
        "from rspipe.execution.connection import connect\n"
        "from rspipe.execution.resources import Resources\n"
        "with connect(address=None, resources=Resources(), log=Path('log')) as joined:\n"
        "    print('study at', joined.address, len(joined.nodes))\n"
    )
    (tmp_path / "pipelines" / "full_study.py").write_text(said, encoding="utf-8")
    script = [str(CLUSTER / "slurm.sh")]
    environment = {**slurm, "HOME": str(tmp_path), "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "1"}
    # Sockets want a short path.
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp", ignore_cleanup_errors=True) as short:
        done = subprocess.run(
            [*alone, *script],
            env={**environment, "SLURM_GPUS_ON_NODE": "0", "RAY_TMPDIR": short, "PATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    # Ray names the head by another of its addresses.
    assert re.search(r"study at [\d.]+:24711 1$", done.stdout, re.MULTILINE), done.stdout


# --- all --------------------------------------------------------------------------------------------------------------


def test_every_word_to_fill_in_is_explained() -> None:
    readme = text_of("README.md")
    files = [path for path in CLUSTER.iterdir() if path.name != "README.md"]
    words = {word for path in files for word in re.findall(r"YOUR_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))}
    assert len(words) >= 8
    assert [word for word in sorted(words) if f"{word}`" not in readme and f"`{word}" not in readme] == []


def test_no_file_of_the_cluster_opens_a_port_to_the_world_or_holds_a_secret() -> None:
    for path in CLUSTER.iterdir():
        text = path.read_text(encoding="utf-8")
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert "--dashboard-host=0.0.0.0" not in code, path
        assert not re.search(r"LoadBalancer|NodePort|Ingress\b(?!\])|0\.0\.0\.0/0", code) or path.name == "README.md", (
            path
        )
        assert not re.search(r"RAY_AUTH_TOKEN=|auth_token: [^~\n]|AKIA|BEGIN [A-Z ]*PRIVATE KEY", code), path
        assert "RAY_AUTH_MODE=disabled" not in text, path


def test_every_file_of_the_cluster_is_in_its_readme_and_every_path_there_exists() -> None:
    readme = text_of("README.md")
    for path in CLUSTER.iterdir():
        assert path.name in readme or path.name.endswith(("README.md", ".dockerignore")), path
    for path in re.findall(r"\b(?:cluster|pipelines)/[\w./-]+\w", re.sub(r"https?://\S+", "", readme)):
        assert (REPOSITORY / path).exists(), path


def test_the_commands_of_the_readme_are_command_lines_of_the_pipeline() -> None:
    lines = text_of("README.md").replace("\\\n", " ")
    commands = re.findall(r"^    .*(?:full_study\.py|slurm\.sh) (.*)$", lines, re.MULTILINE)
    assert len(commands) >= 2
    for words in commands:
        assert tyro.cli(StageOptions, args=shlex.split(words)).run_dir is not None

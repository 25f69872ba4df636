"""The environment that a run is made with: commit, packages, device, machine of the driver."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rspipe.storage.files import read_content
from rspipe.storage.paths import StorePath


def environment() -> dict[str, str]:
    """Return packages, device, machine and commit, which a run's numbers depend on beside its study, and the date."""
    packages = ("rspipe", "torch", "torchvision", "ray", "numpy", "scipy", "cvxpy", "mlflow", "scikit-learn")
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "commit": _commit(Path(__file__)),
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
        "float32_matmul": torch.get_float32_matmul_precision(),
    }


def recorded_environment(run_dir: StorePath) -> dict[str, str]:
    """Return what a run was made with; where later sessions differed, one after the other: "2.9 then 2.10".

    Raises:
        DamagedError: A record of it is missing, or not what was written.
    """
    later = [read_content(path) for path in run_dir.glob("environment-*.json")]
    made = [read_content(run_dir / "environment.json"), *sorted(later, key=lambda one: str(one.get("started")))]
    names = dict.fromkeys(name for one in made for name in one)
    return {name: " then ".join(dict.fromkeys(str(one[name]) for one in made if name in one)) for name in names}


def _commit(file: Path) -> str:
    """Return the commit of the repository that a file belongs to, else the one that the environment names."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(file.parent), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        # A virtual environment may lie in somebody else's repository.
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        # An image holds no repository; its build says which commit it is of.
        return os.environ.get("RSPIPE_COMMIT") or "unknown"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

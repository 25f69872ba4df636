"""A pass over images whose actors wait for a signal: `python -m tests.stages.waiting_pass ADDRESS RUN_DIR`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from rspipe.data.splits import Split
from rspipe.execution.connection import connect
from rspipe.execution.resources import Resources
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages.passes import CountPass, Work, visit
from rspipe.storage.files import write_record
from rspipe.storage.store import Store

IMAGES = 60


@dataclass(frozen=True)
class WaitingPass(CountPass):
    """Touches a file named by its node, and returns nothing once there is a file `go`."""

    run_dir: Path

    def run(self, *given: Any, **_: Any) -> pa.Table:
        """Return a row without counts, for (networks, image, label, example)."""
        import ray

        (self.run_dir / "arrived" / ray.get_runtime_context().get_node_id()).touch()
        while not (self.run_dir / "go").exists():
            time.sleep(0.05)
        return pa.table({"example": [given[3]], "samples": [self.samples]})


def main(address: str, run_dir: Path) -> None:
    """Run the pass and write down each image that it visited."""
    (run_dir / "arrived").mkdir()
    store = Store(run_dir)
    write_record(store.run_dir / "study.json", {})
    split = Split(torch.zeros(IMAGES, 1, 2, 2), torch.zeros(IMAGES, dtype=torch.int64), torch.arange(IMAGES))
    waiting = WaitingPass(0.25, (), (), (), CertifySpec(n0=10, n=10), 10, run_dir)

    def show(rows: pa.Table) -> None:
        for example in rows["example"].to_pylist():
            sys.stdout.write(f"visited {example}\n")

    with connect(address=address, resources=Resources(), log=run_dir / "ray.log") as cluster:
        visit(store, [Work(waiting, split)], classes=10, cluster=cluster, on_block=show)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""The job files of recipes/cloud against SkyPilot's and dstack's own parsers, without a network.

They live in an environment of their own: make test-cloud.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLOUD = ROOT / "recipes" / "cloud"
PYTHON = ROOT / ".venv-cloud" / "bin" / "python"

READ_SKY = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
(resources, *_) = task.resources
print(json.dumps({
    "run": task.run,
    "nodes": task.num_nodes,
    "spot": all(one.use_spot for one in task.resources),
    "gpus": sorted(name for one in task.resources for name in one.accelerators),
    "recovery": resources.job_recovery,
    "mounts": {path: store.mode.value for path, store in task.storage_mounts.items()},
}))
"""
READ_DSTACK = """
import json, sys, yaml
from dstack._internal.core.models.configurations import parse_run_configuration
task = parse_run_configuration(yaml.safe_load(open(sys.argv[1])))
print(json.dumps({
    "commands": task.commands,
    "retry": [event.value for event in task.retry.on_events],
    "spot": task.spot_policy.value,
    "mounts": [volume.path for volume in task.volumes],
}))
"""

pytestmark = pytest.mark.cloud


def read(program: str, path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """What `program` prints about the file at `path`; its home is empty, nothing is sent."""
    environment = os.environ | {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    return subprocess.run(
        [PYTHON, "-c", program, str(path)],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip


def accepted(program: str, name: str, home: Path) -> dict[str, Any]:
    result = read(program, CLOUD / name, home)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_skypilot_takes_the_managed_job_and_the_task_of_two_nodes(tmp_path):
    task = accepted(READ_SKY, "sky.yaml", tmp_path)
    assert "vibelite run" in task["run"]
    assert task["spot"] and task["gpus"] == ["A100-80GB", "H100"]
    # The whole section: SkyPilot passes keys of it that it does not know to its plugins.
    assert task["recovery"] == {
        "strategy": "EAGER_NEXT_REGION",
        "max_restarts_on_errors": 0,
        "recover_on_exit_codes": [75],
    }
    assert task["mounts"] == {"/runs": "MOUNT_CACHED"}
    two = accepted(READ_SKY, "sky_2_nodes.yaml", tmp_path)
    assert two["nodes"] == 2 and "-m torch.distributed.run --nnodes" in two["run"]


def test_dstack_takes_the_task(tmp_path):
    task = accepted(READ_DSTACK, "dstack.yaml", tmp_path)
    assert "vibelite run" in task["commands"][-1]
    assert task["retry"] == ["interruption", "no-capacity"]
    assert (task["spot"], task["mounts"]) == ("spot", ["/runs"])


@pytest.mark.parametrize(
    ("program", "name", "right", "wrong"),
    [
        (READ_SKY, "sky.yaml", "use_spot:", "use_spots:"),
        (READ_DSTACK, "dstack.yaml", "on_events:", "on_event:"),
    ],
)
def test_a_key_that_does_not_exist_is_refused(program, name, right, wrong, tmp_path):
    text = (CLOUD / name).read_text()
    assert text.count(right) == 1
    path = tmp_path / name
    path.write_text(text.replace(right, wrong))
    result = read(program, path, tmp_path)
    assert result.returncode != 0
    assert wrong.rstrip(":") in result.stderr

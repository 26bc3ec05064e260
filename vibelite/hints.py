"""Commands for messages that tell somebody what to type: as they work here, whether the program was
installed or is run from a checkout.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
"""Where the package lies; a checkout of the repository has a pyproject.toml there."""


def program() -> str:
    """How a shell in this directory calls vibelite."""
    script = Path(sys.executable).with_name("vibelite")
    found = shutil.which("vibelite")
    if found is not None and script.exists() and Path(found).samefile(script):
        return "vibelite"
    return _shown(script) if script.exists() else f"{_shown(Path(sys.executable))} -m vibelite"


def install(requirement: str) -> str:
    """The command that installs a requirement, such as `vibelite[gpu]`, beside this program; in the
    versions that were tested where their list is at hand.
    """
    name, bracket, extras = requirement.partition("[")
    if name == "vibelite" and not is_installed():
        requirement = f"{_shown(CHECKOUT)}{bracket}{extras}"
    python = _shown(Path(sys.executable))
    pip = f"{python} -m pip install"
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        pip = f"uv pip install --python {python}"
    tested = CHECKOUT / "constraints" / "gpu.txt"
    is_tested = tested.is_file() and extras != "mlflow]"  # which vLLM's versions exclude
    constraints = f" -c {_shown(tested)}" if is_tested else ""
    return f"{pip}{constraints} {shlex.quote(requirement)}"


def setup() -> str:
    """The command that installs what the recipes for a CPU need."""
    if not (CHECKOUT / "Makefile").is_file():
        return install("vibelite[smollm]")
    return "make setup" if Path.cwd() == CHECKOUT else f"make -C {_shown(CHECKOUT)} setup"


def is_installed() -> bool:
    """Whether the package is a distribution of this Python, rather than a directory on its path."""
    try:
        metadata.version("vibelite")
    except metadata.PackageNotFoundError:
        return False
    return True


def _shown(path: Path) -> str:
    """Relative where that is shorter, quoted for a shell."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith(os.pardir) else relative)

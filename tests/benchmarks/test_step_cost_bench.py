"""The benchmark of the step cost: what is compared, and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmarks.step_cost.sweep as sweep

PROTOCOL: dict[str, Any] = json.loads((Path(sweep.__file__).parent / "protocol.json").read_text())

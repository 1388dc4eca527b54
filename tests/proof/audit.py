"""Asks whether what is installed has known vulnerabilities: `python -m tests.proof.audit`, run by
`make check`. Status 1 only where there are some: a service that cannot be asked, or does not know
a package, is said to be so in plain words, and is no reason to fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PATIENCE_SECONDS = 300
ASK = (sys.executable, "-m", "pip_audit", "--format=json", "--skip-editable", "--desc=off")


def asked(command: Sequence[str] = ASK) -> dict[str, Any] | str:
    """The report, or why there is none."""
    try:
        done = subprocess.run(
            [*command, "--progress-spinner=off"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PATIENCE_SECONDS} seconds"
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:]
        return last[0] if last else f"pip-audit ended with status {done.returncode}"
    return report


def judged(report: Mapping[str, Any] | str) -> tuple[int, list[str]]:
    """Exit status, and lines to print."""
    if isinstance(report, str):
        return 0, [f"Vulnerabilities: NOT CHECKED, the service could not be asked: {report}"]
    packages = report["dependencies"]
    known = [package for package in packages if "vulns" in package]
    unknown = [package["name"] for package in packages if "vulns" not in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, mended in "
        f"{', '.join(found['fix_versions']) or 'no version yet'}"
        for package in known
        for found in package["vulns"]
    ]
    status = 1 if lines else 0
    if not known:
        return 0, [
            f"Vulnerabilities: NOT CHECKED, the service knows none of {len(unknown)} packages"
        ]
    lines.append(f"Vulnerabilities: {len(lines)} in {len(known)} packages that were checked")
    if unknown:
        lines.append(f"NOT CHECKED, unknown to the service: {', '.join(sorted(unknown))}")
    return status, lines


if __name__ == "__main__":
    exit_status, said = judged(asked())
    sys.stdout.write("\n".join(said) + "\n")
    sys.exit(exit_status)

"""Every operation's answers on the README's images, by this build and by another one: bit for bit.

Run: python -m bench.builds OTHER_TREE     a checkout of the other build; it runs with this environment

Arrays are compared by their bytes, pictures by theirs, facts as JSON. Times, addresses, ids and the digest of the code
differ between builds and are not looked at. Exits with 1 where anything else differs. How many masks Score-CAM runs at
a time depends on the machine's load, and with it the last bits: there, arrays within 1e-5 of the largest are close.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from bench.serving import served

ROOT = Path(__file__).parents[1]
IMAGES = ("cat.jpg", "coffee.jpg")
REQUESTS: list[tuple[str, int, dict[str, str]]] = [
    ("classify", 1, {"top": "3"}),
    ("classify", 1, {"precision": "fast"}),
    ("feature-maps", 1, {}),
    ("feature-maps", 1, {"layer": "blocks.2.0", "channels": "top:16"}),
    ("feature-maps", 2, {"layers": "blocks.1,blocks.4", "channels": "first:4"}),
    ("kernels", 0, {"filters": "first:32"}),
    ("deconv", 1, {"layer": "blocks.2.0", "channels": "top:4"}),
    ("deconv", 1, {"layer": "blocks.3", "channels": "3,5", "rule": "gradient", "seed_unit": "channel"}),
    *[
        ("saliency", 1, {"method": method, "samples": "4", "steps": "8", "tolerance": "1"})
        for method in ("gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients")
    ],
    ("occlusion", 1, {"stride": "56"}),
    ("occlusion", 1, {"stride": "56", "incremental": "false"}),
    ("cam", 1, {"methods": "gradcam,gradcam++,hirescam,elementwise,xgradcam,layercam,eigencam,eigengradcam"}),
    ("cam", 1, {"methods": "cam,ablationcam,fullgrad,guided-gradcam"}),
    ("cam", 1, {"methods": "scorecam", "layer": "blocks.6"}),
    ("maximize", 0, {"layer": "blocks.2", "channels": "0,1", "steps": "4", "preset": "lucid"}),
    ("maximize", 0, {"layer": "blocks.2", "channels": "0", "steps": "3", "preset": "pixel"}),
    ("maximize", 0, {"layer": "blocks.2", "channels": "0", "steps": "3", "preset": "maco"}),
    ("cka", 1, {"layer": "blocks.2", "channels": "first:8"}),
    ("cka", 2, {"layer": "blocks.2", "channels": "first:8", "samples": "positions", "estimator": "debiased"}),
]
FLEETING = frozenset({"href", "image_id", "provenance", "timings_ms", "id", "cached"})
"""Names of what differs from run to run."""


def steady(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in FLEETING}
    return [steady(item) for item in value] if isinstance(value, list) else value


def ask(address: str, operation: str, images: int, fields: dict[str, str]) -> dict[str, Any]:
    """What one build answers: its facts, the bytes of every array, and of the picture where there is one."""
    parts: list[tuple[str, Any]] = [
        ("image", (name, (ROOT / "docs" / "images" / name).read_bytes(), "image/jpeg")) for name in IMAGES[:images]
    ]
    parts += [(name, (None, value)) for name, value in fields.items()]
    with httpx2.Client(base_url=address, timeout=300, trust_env=False, headers={"Prefer": "wait=60"}) as client:
        answer = client.post(f"/v1/{operation}", files=parts or [("seed", (None, "0"))])
        job = answer.json()
        while answer.status_code == 202:
            answer = client.get(f"{job['links']['self']}?wait=60")
            job = answer.json()
            if job["state"] == "succeeded":
                answer = client.get(job["links"]["result"])
                job = answer.json()
        if answer.status_code != 200:
            return {"refused": {key: job.get(key) for key in ("type", "detail", "errors")}}
        result = job["result"]
        picture = client.get(job["links"]["result"], headers={"Accept": "image/png"})
        return {
            "facts": steady(result["facts"]),
            "request": steady(job["request"]),
            "picture": picture.content if picture.status_code == 200 else picture.status_code,
            **{f"array {name}": client.get(found["href"]).content for name, found in sorted(result["arrays"].items())},
        }


def close(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether all arrays agree to 1e-5 of their largest number."""
    for name in now:
        if name.startswith("array "):
            one, two = (np.load(io.BytesIO(each[name]), allow_pickle=False) for each in (before, now))
            if not np.allclose(one, two, rtol=0, atol=1e-5 * float(np.abs(one).max())):
                return False
    return set(before) == set(now)


def answers(tree: Path) -> list[dict[str, Any]]:
    """All answers of the build in a tree, each asked for afresh."""
    os.environ["PYTHONPATH"] = str(tree)
    with served() as address:
        return [ask(address, *request) for request in REQUESTS]


def commit(tree: Path) -> str:
    """The commit that a tree is at."""
    command = ["git", "-C", str(tree), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def main() -> int:
    """Ask both builds everything and say what differs."""
    other = Path(sys.argv[1]).resolve()
    theirs, ours = answers(other), answers(ROOT)
    different = 0
    for (operation, _, fields), before, now in zip(REQUESTS, theirs, ours, strict=True):
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        near = bool(names) and fields.get("methods") == "scorecam" and close(before, now)
        different += bool(names) and not near
        verdict = "close  " if near else "differs" if names else "equal  "
        print(f"{verdict}  {operation} {fields}  {len(now)} parts  {', '.join(names)}")
        for name in names:
            if name in ("facts", "request", "refused"):
                print(f"    before {json.dumps(before.get(name))[:600]}\n    now    {json.dumps(now.get(name))[:600]}")
    print(f"{len(REQUESTS) - different} of {len(REQUESTS)} answers of {commit(ROOT)} are those of {commit(other)}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

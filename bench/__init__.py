"""What is measured, each against a peer in the same run; see bench/report.py. Threads wait as the engine's do."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

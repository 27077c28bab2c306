"""These tests are for the virtual machine: see `make test-vm` and scripts/vm.py. Elsewhere there are none."""

import os

MODE = os.environ.get("MINIDOCKER_VM", "")

collect_ignore_glob = [] if MODE else ["test_*.py"]

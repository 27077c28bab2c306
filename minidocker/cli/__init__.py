"""What people type and see. A command is short: looking for garbage while it imports its modules would take 4 ms."""

import gc

gc.set_threshold(50_000)

"""verl has an environment of its own, .venv-verl: its requirements clash with the project's."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("verl") else ["test_verl.py"]

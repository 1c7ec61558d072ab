"""The demonstration model that comes with the package, and all that it is made from: README.md tells how."""

from pathlib import Path

EMBEDDED = "embedded"
"""What stands for it where a model is named."""

MODEL = Path(__file__).with_name("model.gguf")
"""Its file, as `make embedded-model` wrote it."""

"""How to make a small model of our own that plays scenes: what it learns from, its training, and how good it is. README.md tells all."""

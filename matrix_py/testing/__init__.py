"""Help for tests: scripted models for users' own scenes, and random-weight GGUFs."""

"""The statements that make, fill and read a log."""
